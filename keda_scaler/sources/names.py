"""Names in `endpoints`: looked up again and again, each address of a name a replica of its own.

Rules
1. Of a name with IPv4 addresses only these count: those of IPv6 are of the same servers.
2. Some name servers give a few of many addresses in turn. One that was given is listed until it
   has not been for `staleSeconds`.
3. A name that is not answered, or that has an address which may not be read, makes the list
   unknown, and never shorter: what is left out may be at work.
"""

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.readings import Missing, Replica
from keda_scaler.core.trigger import Trigger
from keda_scaler.core.values import is_address, without_query
from keda_scaler.errors import SourceError
from keda_scaler.sources.kubernetes import Listing
from keda_scaler.sources.pages import CONNECT_SECONDS, CheckedResolver
from keda_scaler.sources.sink import Clock
from keda_scaler.sources.slices import Endpoint

MAX_ADDRESSES = 256
"""Addresses of all names of one trigger."""


class Names:
    """Looks names up, each once at a time however many targets ask."""

    def __init__(self, rules: AddressRules) -> None:
        self._resolver = CheckedResolver(rules)
        self._asked: dict[str, asyncio.Task[frozenset[str]]] = {}

    async def addresses(self, host: str) -> frozenset[str]:
        """Give every address of a name.

        Raises:
            SourceError: when it has none, or one that may not be read, or when that takes long.

        """
        asked = self._asked.get(host)
        if asked is None:
            asked = asyncio.create_task(self._resolver.addresses(host), name=f"look-up of {host}")
            self._asked[host] = asked
            asked.add_done_callback(lambda task: self._forget(host, task))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncio.shield(asked)
        except TimeoutError:
            raise SourceError(f"{host} is not resolved within {CONNECT_SECONDS:g} s") from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "no name of a host"
            raise SourceError(f"{host} cannot be resolved: {why or 'no address'}") from error

    async def close(self) -> None:
        """Wait for no name any more."""
        for task in self._asked.values():
            task.cancel()
        await self._resolver.close()

    def _forget(self, host: str, task: asyncio.Task[frozenset[str]]) -> None:
        del self._asked[host]
        if not task.cancelled():
            task.exception()  # whoever waited has it; perhaps nobody did so long


class NamedPages:
    """The pages of a trigger's `endpoints`, from one look-up of their names to the next."""

    def __init__(self, names: Names, trigger: Trigger, clock: Clock) -> None:
        self._names = names
        self._trigger = trigger
        self._clock = clock
        hosts = dict.fromkeys(map(_host, trigger.endpoints))
        self._seen: dict[str, dict[str, float]] = {h: {} for h in hosts if not is_address(h)}
        """When each address of a name was given last, in monotonic seconds."""

    @property
    def is_fixed(self) -> bool:
        """Whether there is no name among them: then the list is true as long as the trigger."""
        return not self._seen

    async def listing(self) -> Listing | Missing:
        """Look all names up, and list the pages."""
        if self.is_fixed:
            return Listing(listed(self._trigger.endpoints, {}), math.inf)
        now = self._clock()
        answers = await asyncio.gather(
            *map(self._names.addresses, self._seen), return_exceptions=True
        )
        for seen, answer in zip(self._seen.values(), answers, strict=True):
            if isinstance(answer, SourceError):
                return Missing(str(answer))
            if isinstance(answer, BaseException):
                raise answer
            for address, at in list(seen.items()):
                if at <= now - self._trigger.stale_after:
                    del seen[address]
            seen.update(dict.fromkeys(answer, now))
        if sum(map(len, self._seen.values())) > MAX_ADDRESSES:
            return Missing(f"the names of endpoints have more than {MAX_ADDRESSES} addresses")
        return Listing(listed(self._trigger.endpoints, self._seen), now)


def listed(urls: Sequence[str], addresses: Mapping[str, Collection[str]]) -> tuple[Endpoint, ...]:
    """Name each page by its URL; those of several addresses by theirs, too.

    Those that differ by their query, by a number. `addresses` has those of each name.
    """
    pages: dict[str, Endpoint] = {}
    for number, url in enumerate(urls, 1):
        found = sorted(addresses.get(_host(url), ()))
        for address in found or (None,):
            name = without_query(url) + (f" ({address})" if len(found) > 1 else "")
            if name in pages:
                name = f"{name} ({number})"
            pages[name] = _at(Replica(name), url, address)
    return tuple(pages.values())


def _at(replica: Replica, url: str, address: str | None) -> Endpoint:
    """Give a replica's page at an address, called as its URL does; None: at the URL's own."""
    if address is None:
        return Endpoint(replica, url)
    parts = urlsplit(url)
    place = f"[{address}]" if ":" in address else address
    port = "" if parts.port is None else f":{parts.port}"
    there = parts._replace(netloc=f"{place}{port}").geturl()
    return Endpoint(replica, there, host=parts.netloc)


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""

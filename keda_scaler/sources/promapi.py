"""Prometheus' HTTP API for the event loop: queries in worker threads, under a deadline.

Every Prometheus has threads of its own, so that one that hangs never delays another. A query that
runs out of time, or whose caller is cancelled, has its connection cut, which ends its thread.
"""

import asyncio
import base64
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from keda_scaler.core.addresses import AddressRules
from keda_scaler.engines.samples import Sample
from keda_scaler.errors import SourceError
from keda_scaler.sources.promanswer import Series
from keda_scaler.sources.sink import Clock

if TYPE_CHECKING:
    from keda_scaler.sources.promhttp import Client

QUERY_SECONDS = 10.0
"""Longest time for one query, waiting for a thread included."""

MAX_IN_FLIGHT = 6
"""Queries that one Prometheus works on for us at a time; further ones wait."""

MAX_OWN_IN_FLIGHT = 2
"""Own queries of triggers among them, of different namespaces, and as many again of those to wake
from: slow ones must not keep everybody else waiting."""

MAX_SECRET_BYTES = 64 * 2**10
"""Read of a file with a credential; a service account's token is about 1 KiB."""

SETTLED_SECONDS = 240.0
"""A Prometheus that scraped nothing so long ago may not have come to all of its targets yet. Longer
than any scrape interval that we read at, and less than the five minutes for which `up` stands."""

ALIVE_SECONDS = 60.0
"""How old its newest scrape may have been then."""

PIN_SECONDS = 1.0
"""How long targets share a pin: a thousand of them then ask for it once a second, not a thousand
times, and it is a query over every scrape target of that Prometheus."""

_WHEN = "when"


def _pin() -> str:
    """Ask when the newest scrape was, and when it was as of a while ago, told apart by a label."""
    before = f"max(timestamp(up offset {SETTLED_SECONDS:.0f}s))"
    return f'max(timestamp(up)) or label_replace({before}, "{_WHEN}", "before", "", "")'


@dataclass(frozen=True, slots=True)
class PrometheusServer:
    """A Prometheus and what it takes to be let in."""

    url: str
    """Without a trailing slash or a query; may have a path."""

    bearer_token_file: Path | None = None
    """Read at each query, so that a rotated token is taken up; None: no bearer token."""

    username: str | None = None
    """Of basic authentication; None: none."""

    password_file: Path | None = None
    """Read at each query; None: an empty password."""

    ca_file: Path | None = None
    """Certificates to trust, PEM; None: those that the HTTP client brings."""

    cert_file: Path | None = None
    """Our certificate, PEM, for a server that asks for one; None: none. Read at each connection."""

    key_file: Path | None = None
    """Its key, PEM."""

    @property
    def certificate(self) -> tuple[str, str] | None:
        """Files of our certificate and its key."""
        if self.cert_file is None or self.key_file is None:
            return None
        return str(self.cert_file), str(self.key_file)


@dataclass(frozen=True, slots=True)
class Pin:
    """One instant, by the clock of a Prometheus and by ours. Queries are evaluated at it.

    The age of a sample is taken by the clock of Prometheus, so that the two clocks may differ.
    """

    unix: float
    """The instant, in seconds since 1970."""

    at: float
    """The same in monotonic seconds of this process; rather too early than too late."""

    newest: float
    """When the newest sample of any scrape was taken, in seconds since 1970."""

    skew: float
    """How far the clock of Prometheus is from ours, in seconds; 0 when no difference shows."""

    before: float | None
    """When the newest sample was taken as of `SETTLED_SECONDS` before; None: there was none."""

    def is_young(self, limit: float) -> bool:
        """Whether this Prometheus began to scrape, or began again, a short while ago.

        `limit` is `staleSeconds`, which a scrape interval may be as long as.
        """
        if self.before is None:
            return True
        return self.unix - SETTLED_SECONDS - self.before > max(ALIVE_SECONDS, limit)

    def to_monotonic(self, unix: float) -> float:
        """Give a sample's time in monotonic seconds; one of the future is taken at the instant."""
        return self.at - max(0.0, self.unix - unix)

    def check(self, limit: float, now: float) -> None:
        """Refuse a Prometheus of whose data nobody can tell whether they are of the last `limit`
        seconds (`staleSeconds`); `now` is in monotonic seconds.

        Raises:
            SourceError: with what is wrong.

        """
        if self.skew > limit:
            raise SourceError(
                "the clocks of Prometheus and of this server differ by more than staleSeconds "
                f"({limit:g})"
            )
        if now - self.to_monotonic(self.newest) > limit:
            raise SourceError(
                f"the newest sample of Prometheus is older than staleSeconds ({limit:g}); "
                "staleSeconds must exceed its scrape interval"
            )


class Prometheus:
    """One Prometheus, shared by the targets that read from it. Used from the loop's thread."""

    def __init__(
        self,
        server: PrometheusServer,
        rules: AddressRules | None = None,
        *,
        clock: Clock = time.monotonic,
        wall: Callable[[], float] = time.time,
        query_seconds: float = QUERY_SECONDS,
    ) -> None:
        """`rules` judge an address that a trigger names; None trusts one that the settings name."""
        self._server = server
        self._rules = rules
        self._clock = clock
        self._wall = wall
        self._query_seconds = query_seconds
        self._pin: Pin | None = None
        self._closed = False
        self._calls: set[_Call] = set()
        self._idle: list[Client] = []
        self._own, self._waking = _Line(), _Line()
        self._threads = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="prometheus")

    async def pin(self) -> Pin:
        """Ask for the time of Prometheus and of its newest scrape; at most a second old.

        Raises:
            SourceError: also when it scrapes nothing.

        """
        if self._pin is None or self._clock() - self._pin.at > PIN_SECONDS:
            before, at = self._wall(), self._clock()
            found = {_WHEN in each.labels: each for each in await self.query(_pin())}
            if False not in found:
                raise SourceError("Prometheus scrapes nothing: it has no series named up")
            if not all(math.isfinite(each.number) for each in found.values()):
                raise SourceError("the answer is not one of Prometheus' API")
            unix = found[False].newest.unix
            skew = max(0.0, before - unix, unix - self._wall())
            settled = found[True].number if True in found else None
            self._pin = Pin(unix, at, newest=found[False].number, skew=skew, before=settled)
        return self._pin

    async def query_own(
        self, promql: str, unix: float, namespace: str, *, wakes: bool = False
    ) -> list[Series]:
        """Evaluate an own query of a trigger of this namespace, when it is its turn.

        Raises:
            SourceError: likewise.

        """
        line = self._waking if wakes else self._own
        try:
            async with asyncio.timeout(self._query_seconds) as wait, line.turn(namespace):
                wait.reschedule(None)
                return await self.query(promql, unix)
        except TimeoutError:
            raise SourceError("Prometheus is busy with other own queries of triggers") from None

    async def query(self, promql: str, unix: float | None = None) -> list[Series]:
        """Evaluate a query, at `unix` or else now by the clock of Prometheus.

        Raises:
            SourceError: when there is no answer, or none that we accept.

        """
        params = {} if unix is None else {"time": f"{unix:.3f}"}
        params["partial_response"] = "false"  # to Thanos: an error rather than half an answer
        call = _Call()
        self._calls.add(call)
        try:
            async with asyncio.timeout(self._query_seconds):
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._run, call, promql, params
                )
        except TimeoutError:
            raise SourceError(
                f"Prometheus did not answer within {self._query_seconds:g} seconds"
            ) from None
        finally:
            self._calls.discard(call)
            call.abort()

    def close(self) -> None:
        """End all queries and threads; at once, but for a thread that resolves a name."""
        self._closed = True
        for call in self._calls:
            call.abort()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._close_idle()

    def _run(self, call: "_Call", promql: str, params: Mapping[str, str]) -> list[Series]:
        """Query in a worker thread. A connection outlives the query only if that went well."""
        try:
            client = self._idle.pop()
        except IndexError:
            client = self._client()
        healthy = False
        try:
            call.begin(client)
            series = client.query(promql, params)
            healthy = True
        finally:
            if call.end() and healthy:
                self._idle.append(client)
            else:
                client.close()
            if self._closed:
                self._close_idle()
        return series

    def _close_idle(self) -> None:
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def _client(self) -> "Client":
        from keda_scaler.sources.promhttp import Client  # noqa: PLC0415  # takes 0.2 s; often unused

        return Client(
            self._server.url,
            rules=self._rules,
            ca_file=self._server.ca_file,
            certificate=self._server.certificate,
            authorization=self._authorization,
        )

    def _authorization(self) -> str | None:
        if self._server.bearer_token_file is not None:
            return f"Bearer {_secret(self._server.bearer_token_file, 'bearer token', 'ascii')}"
        if self._server.username is None:
            return None
        file = self._server.password_file
        password = "" if file is None else _secret(file, "password", "utf-8")
        pair = f"{self._server.username}:{password}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"


class _Line:
    """Those who wait for their turn with an own query: few have it at a time, and no two of one
    namespace. So a namespace with slow ones keeps only itself waiting.
    """

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(MAX_OWN_IN_FLIGHT)
        self._by_namespace: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, namespace: str) -> AsyncGenerator[None, None]:
        """Have the turn while inside."""
        own = self._by_namespace.setdefault(namespace, asyncio.Lock())
        async with own, self._all:
            yield


class _Call:
    """What the loop and a worker thread share of one query: the means to end it early."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._aborted = False

    def begin(self, client: "Client") -> None:
        with self._lock:
            if self._aborted:
                raise SourceError("the query was given up")
            self._client = client

    def end(self) -> bool:
        """Let go of the client, and say whether it was left alone."""
        with self._lock:
            self._client = None
            return not self._aborted

    def abort(self) -> None:
        """End the query, if it runs."""
        with self._lock:
            self._aborted = True
            if self._client is not None:
                self._client.abort()


def _secret(file: Path, what: str, encoding: str) -> str:
    """Read a credential, without ever repeating any of it."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_SECRET_BYTES).decode(encoding).strip()
    except (OSError, UnicodeDecodeError) as error:
        failure = SourceError(f"the file with the {what} for Prometheus cannot be read")
        if isinstance(error, OSError):
            failure.add_note(str(error))
        raise failure from None  # the cause of the other kind would repeat the secret
    if not text or not text.isprintable():
        raise SourceError(f"the file with the {what} for Prometheus does not hold one line of text")
    return text


def sample_of(series: Series, pin: Pin) -> Sample:
    """Make a sample of a series.

    Raises:
        SourceError: when it is none.

    """
    labels = series.labels
    name = labels.pop("__name__", "")
    return Sample(name, labels, series.number, pin.to_monotonic(series.newest.unix))

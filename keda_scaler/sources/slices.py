"""EndpointSlices: what Kubernetes says of the replicas behind a Service, parsed and resolved.

Pure: no I/O and no clock. Slices are kept parsed and small, and are resolved into endpoints when
asked for. The rules are those of Kubernetes' own consumers of slices: a condition that is not set
counts as ready, serving follows ready, and an endpoint may stand in several slices at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from keda_scaler.core.readings import Missing, Replica
from keda_scaler.core.values import ports_of
from keda_scaler.errors import SourceError

MAX_ENDPOINTS = 1_000
"""Endpoints of one Service; Kubernetes' own limit for the older Endpoints object."""

MAX_SLICES = 5_000
"""Slices of one namespace, about as many Services."""

MAX_NAMESPACE_ENDPOINTS = 50_000
"""Endpoints of one namespace; some 15 MB once parsed."""

_PREFERRED_PORTS = ("metrics", "http")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A replica and where its metrics page is."""

    replica: Replica
    url: str
    """`http://address:port/path`, an IPv6 address in brackets."""

    further: tuple[str, ...] = ()
    """The same of its other ports, if it has a page at each of several."""

    host: str | None = None
    """What it is to be called, with the port if one is given; None: as the URL does."""

    @property
    def urls(self) -> tuple[str, ...]:
        """All its pages."""
        return self.url, *self.further


@dataclass(frozen=True, slots=True)
class _Member:
    """One endpoint of a slice."""

    name: str
    """The pod's name where there is one, else the address."""

    address: str
    ready: bool
    serving: bool
    terminating: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """An EndpointSlice of a Service: endpoints of one address family that share their ports."""

    name: str
    service: str
    family: str
    """IPv4, IPv6 or FQDN."""

    ports: tuple[tuple[str, int], ...]
    """Name (may be empty) and number of each TCP port."""

    members: tuple[_Member, ...]
    version: int = field(compare=False)
    """Larger is newer; 0 if the API server's versions are not numbers. Changes with annotations
    that are of no interest, so it does not count when slices are compared."""


def parse_slice(raw: Mapping[str, Any]) -> Slice | None:
    """Read an EndpointSlice; None if it belongs to no Service.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: if it is none.

    """
    metadata = raw["metadata"]
    service = (metadata.get("labels") or {}).get("kubernetes.io/service-name")
    if not service:
        return None
    family = raw["addressType"]
    version = str(metadata.get("resourceVersion"))
    return Slice(
        name=metadata["name"],
        service=service,
        family=family,
        ports=tuple(
            (port.get("name") or "", int(port["port"]))
            for port in raw.get("ports") or ()
            if port.get("port") and (port.get("protocol") or "TCP") == "TCP"
        ),
        members=tuple(_parse_member(member, family) for member in raw.get("endpoints") or ()),
        version=int(version) if version.isdecimal() else 0,
    )


def _parse_member(raw: Mapping[str, Any], family: str) -> _Member:
    address = str(raw["addresses"][0])  # of several, all but the first are left undefined
    if family != "FQDN":
        ip_address(address)  # it becomes part of a URL
    conditions = raw.get("conditions") or {}
    target = raw.get("targetRef") or {}
    ready = conditions.get("ready") is not False
    serving = conditions.get("serving")
    return _Member(
        name=target["name"] if target.get("kind") == "Pod" else address,
        address=address,
        ready=ready,
        serving=ready if serving is None else serving,
        terminating=conditions.get("terminating") is True,
    )


def _find_port(ports: Iterable[tuple[str, int]], wanted: str | None) -> int | None:
    """Choose a slice's port; None if there is none such, or no way to choose."""
    by_name = dict(ports)
    if wanted is None:
        preferred = [by_name[name] for name in _PREFERRED_PORTS if name in by_name]
        return preferred[0] if preferred else _only(by_name.values())
    if wanted in by_name:
        return by_name[wanted]
    return int(wanted) if wanted.isdecimal() and int(wanted) in by_name.values() else None


def _only(numbers: Iterable[int]) -> int | None:
    distinct = set(numbers)
    return distinct.pop() if len(distinct) == 1 else None


def _explain_port(service: str, ports: Iterable[tuple[str, int]], wanted: str | None) -> str:
    shown = [f"{name or 'unnamed'} ({number})" for name, number in ports]
    choices = ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
    if not choices:
        return f"Service {service} has no TCP port"
    if wanted is None:
        return f"Service {service} has no port named metrics or http; choose of {choices}"
    return f"Service {service} has no port {wanted}; it has {choices}"


def _members(slices: Iterable[Slice]) -> list[tuple[Slice, _Member]]:
    """List each replica once, without those that are gone but for their name.

    A pod is in a slice per address family, and while slices are rewritten in two of one family:
    IPv4 wins, then the slice written last, then what is ready. Of two names with the same page the
    pod's wins over a bare address.
    """
    best: dict[str, tuple[tuple[Any, ...], Slice, _Member]] = {}
    for part in slices:
        for member in part.members:
            rank = (
                *(part.family == "IPv4", part.version, member.ready, not member.terminating),
                *(member.address, part.name),  # nothing but order
            )
            known = best.get(member.name)
            if known is None or rank > known[0]:
                best[member.name] = (rank, part, member)
    pages: dict[tuple[str, tuple[tuple[str, int], ...]], tuple[tuple[Any, ...], str]] = {}
    for name, (rank, part, member) in best.items():
        page, claim = (member.address, part.ports), ((name != member.address, *rank), name)
        pages[page] = max(claim, pages.get(page, claim))
    names = {name for _, name in pages.values()}
    chosen = [(part, m) for name, (_, part, m) in sorted(best.items()) if name in names]
    return [(p, m) for p, m in _of_one_family(chosen) if m.serving or not m.terminating]


def _of_one_family(members: list[tuple[Slice, _Member]]) -> list[tuple[Slice, _Member]]:
    """Leave out bare addresses of a family when the other one has as many members: they are the
    same ones, and nothing else says so.
    """
    for family in ("IPv6", "IPv4"):
        bare = [(p, m) for p, m in members if p.family == family and m.name == m.address]
        others = sum(part.family != family for part, _ in members)
        if bare and len(bare) == others:
            return [each for each in members if each not in bare]
    return members


def resolve(
    service: str, slices: Iterable[Slice], port: str | None, path: str
) -> tuple[Endpoint, ...] | Missing:
    """Turn a Service's slices into endpoints: all of them, or the reason why not.

    `port` is as in a trigger: with several a replica has a page at each. A replica of which one is
    not known makes the list unknown: leaving it out would hide its work.
    """
    parts = list(slices)
    members = _members(part for part in parts if part.family != "FQDN")
    if not members and any(part.members for part in parts if part.family == "FQDN"):
        return Missing(f"Service {service} has host names for endpoints, which are not read")
    if len(members) > MAX_ENDPOINTS:
        return Missing(f"Service {service} has more than {MAX_ENDPOINTS} endpoints")
    wanted: tuple[str | None, ...] = (None,) if port is None else ports_of(port)
    numbers = {
        part.name: {each: _find_port(part.ports, each) for each in wanted} for part, _ in members
    }
    endpoints = []
    for part, member in members:
        for each, number in numbers[part.name].items():
            if number is None:
                return Missing(_explain_port(service, part.ports, each))
        host = f"[{member.address}]" if part.family == "IPv6" else member.address
        replica = Replica(member.name, ready=member.ready, terminating=member.terminating)
        # A port by its name and by its number is one page.
        first, *others = dict.fromkeys(numbers[part.name].values())
        urls = (f"http://{host}:{number}{path}" for number in others)
        endpoints.append(Endpoint(replica, f"http://{host}:{first}{path}", tuple(urls)))
    return tuple(endpoints)


class Slices:
    """The slices of one namespace. Refuses to grow without bounds."""

    def __init__(self) -> None:
        self.by_service: dict[str, dict[str, Slice]] = {}
        self._service_of: dict[str, str] = {}
        self._members = 0

    def put(self, new: Slice) -> bool:
        """Add or replace a slice, and say whether anything is different now."""
        old = self.by_service.get(new.service, {}).get(new.name)
        self.remove(new.name)
        self.by_service.setdefault(new.service, {})[new.name] = new
        self._service_of[new.name] = new.service
        self._members += len(new.members)
        if len(self._service_of) > MAX_SLICES:
            raise SourceError(f"the namespace has more than {MAX_SLICES} EndpointSlices")
        if self._members > MAX_NAMESPACE_ENDPOINTS:
            raise SourceError(f"the namespace has more than {MAX_NAMESPACE_ENDPOINTS} endpoints")
        return old != new

    def remove(self, name: str) -> bool:
        """Drop a slice, and say whether there was one."""
        service = self._service_of.pop(name, None)
        if service is None:
            return False
        parts = self.by_service[service]
        self._members -= len(parts.pop(name).members)
        if not parts:
            del self.by_service[service]
        return True

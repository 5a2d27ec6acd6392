"""Which addresses a trigger may make us read.

Anyone who may create a ScaledObject writes triggers, so an address in one is refused unless the
server's settings allow it. An allowed name may still resolve to anything: addresses are judged
again after resolution, and those that belong to this host or to the node's metadata service are
refused unless a network that holds them is allowed too.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_NAME = re.compile(r"[-._a-z0-9]+", re.IGNORECASE)
_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_METADATA = tuple(
    map(
        ip_network,
        (
            "100.100.100.200/32",  # Alibaba
            "168.63.129.16/32",  # Azure's host agent
            "192.0.0.192/32",  # Oracle
            "fd00:ec2::/32",  # Amazon: metadata, credentials of pods
            "fd20:ce::254/128",  # Google
        ),
    )
)
"""Metadata services of clouds that are not link-local. They give out credentials of the node."""

_TRANSLATED = ip_network("64:ff9b::/96")
"""IPv4 addresses as IPv6-only networks reach them (RFC 6052)."""


@dataclass(frozen=True, slots=True)
class AddressRules:
    """The hosts and networks that `--allow-address` names."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[IPNetwork, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """Read host names, addresses and CIDR networks.

        Raises:
            ValueError: for an entry that is none of them.

        """
        hosts: set[str] = set()
        networks: list[IPNetwork] = []
        for entry in entries:
            try:
                networks.append(ip_network(entry))
                continue
            except ValueError:
                if not _NAME.fullmatch(entry):
                    raise ValueError(
                        f"{entry!r} is neither a host name nor an address nor a CIDR network "
                        "(no scheme, no port, no wildcard, no host bits set)"
                    ) from None
            hosts.add(entry.lower().rstrip("."))
            if entry.lower() == "localhost":
                networks.extend(_LOOPBACK)
        return cls(frozenset(hosts), tuple(networks))

    def refuses_host(self, host: str) -> bool:
        """Whether no resolution of this host could make it allowed; needs no I/O."""
        address = _as_address(host)
        if address is not None:
            return not self.holds(address)
        name = host.lower().rstrip(".")
        if ":" in name or name.rpartition(".")[2][:1].isdigit():
            return True  # v1.a:b, 127.1 or 0x7f.1: an address to some resolvers, a name to others
        return name not in self.hosts and not self.networks

    def allows_resolved(self, host: str, address: str) -> bool:
        """Whether a trigger that names `host` may be answered by `address`."""
        resolved = ip_address(address)
        named = host.lower().rstrip(".") in self.hosts
        return self.holds(resolved) or (named and not _is_forbidden(resolved))

    def allows_listed(self, address: str) -> bool:
        """Whether an address that Kubernetes lists as a Service's endpoint may be read."""
        listed = ip_address(address)
        return self.holds(listed) or not _is_forbidden(listed)

    def holds(self, address: IPAddress) -> bool:
        """Whether an allowed network holds the address."""
        plain = _unmapped(address)
        return any(plain in network for network in self.networks)


def _as_address(host: str) -> IPAddress | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _unmapped(address: IPAddress) -> IPAddress:
    """Give an IPv4 address that is written as IPv6 its own form, so that it cannot hide."""
    if not isinstance(address, IPv6Address):
        return address
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_forbidden(address: IPAddress) -> bool:
    plain = _unmapped(address)
    return (
        plain.is_loopback
        or plain.is_link_local
        or plain.is_unspecified
        or plain.is_multicast
        or any(plain in network for network in _METADATA)
    )

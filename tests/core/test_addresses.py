"""Addresses: what triggers may make us read."""

import pytest

from keda_scaler.core.addresses import AddressRules


@pytest.mark.parametrize(
    ("allowed", "host", "refused"),
    [
        ([], "10.0.0.1", True),
        ([], "engine.example", True),
        (["10.0.0.0/8"], "10.1.2.3", False),
        (["10.0.0.0/8"], "11.0.0.1", True),
        (["10.0.0.0/8"], "127.1", True),
        (["10.0.0.0/8"], "2130706433", True),
        (["10.0.0.0/8"], "0x7f.0.0.1", True),
        (["10.0.0.0/8"], "some.name", False),  # its addresses are judged after resolution
        (["engine.example"], "ENGINE.example.", False),
        (["engine.example"], "other.example", True),
        (["engine.example"], "10.0.0.1", True),
        (["fd00::/8"], "fd00::1", False),
    ],
)
def test_hosts_are_refused_unless_allowed(allowed: list[str], host: str, refused: bool) -> None:  # noqa: FBT001
    """Without I/O, only what could be allowed passes."""
    assert AddressRules.parse(allowed).refuses_host(host) is refused


@pytest.mark.parametrize(
    ("allowed", "host", "address", "may"),
    [
        (["engine.example"], "engine.example", "10.0.0.1", True),
        (["engine.example"], "engine.example", "127.0.0.1", False),
        (["engine.example"], "engine.example", "169.254.169.254", False),
        (["engine.example"], "engine.example", "fd00:ec2::254", False),
        (["engine.example"], "engine.example", "::ffff:127.0.0.1", False),
        (["engine.example"], "engine.example", "0.0.0.0", False),
        (["engine.example", "127.0.0.0/8"], "engine.example", "127.0.0.1", True),
        (["10.0.0.0/8"], "any.name", "10.0.0.1", True),
        (["10.0.0.0/8"], "any.name", "192.168.0.1", False),
        (["10.0.0.0/8"], "any.name", "::ffff:10.0.0.1", True),
        (["localhost"], "localhost", "127.0.0.1", True),
        (["localhost"], "localhost", "::1", True),
    ],
)
def test_a_name_is_judged_by_what_it_resolves_to(
    allowed: list[str],
    host: str,
    address: str,
    may: bool,  # noqa: FBT001
) -> None:
    """An allowed name cannot be pointed at this host or at the node's metadata service."""
    assert AddressRules.parse(allowed).allows_resolved(host, address) is may


def test_endpoints_of_a_service_are_pods() -> None:
    """Any address may be a pod's, but for those that never are."""
    rules = AddressRules.parse([])

    assert rules.allows_listed("10.244.1.17")
    assert rules.allows_listed("fd00::17")
    assert not rules.allows_listed("127.0.0.1")
    assert not rules.allows_listed("169.254.169.254")
    assert AddressRules.parse(["127.0.0.0/8"]).allows_listed("127.0.0.1")


@pytest.mark.parametrize("entry", ["http://x", "x:80", "10.0.0.1/8", "", "a b"])
def test_a_wrong_entry_is_named(entry: str) -> None:
    """A setting that is neither a host nor a network is an error."""
    with pytest.raises(ValueError, match="neither a host name"):
        AddressRules.parse([entry])

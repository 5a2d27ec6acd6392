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


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "224.0.0.1",
        "::",
        "::1",
        "127.8.9.10",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::7f00:1",
        "2002:a9fe:a9fe::",
    ],
)
def test_what_gives_out_credentials_is_never_reached_by_a_name(address: str) -> None:
    """Whichever cloud it is, and however it is written; only a network that holds it allows it."""
    named = AddressRules.parse(["engine.example"])

    assert not named.allows_resolved("engine.example", address)
    assert not named.allows_listed(address)
    assert AddressRules.parse(["0.0.0.0/0", "::/0"]).allows_listed(address)


@pytest.mark.parametrize(
    "host",
    [
        *("127.1", "127.0.1", "2130706433", "0177.0.0.1", "0x7f000001", "0x7f.1", "127.0.0.1."),
        *("1.2.3.4.5", "00000177.1", "[::ffff:127.0.0.1]", "::127.0.0.1", "0", "0.0.0.0"),
        *("169.254.43518", "2852039166", "0251.0376.0251.0376", "[::1%25lo]", "::1%lo"),
        "v1.a:b.engine.example",
    ],
)
def test_no_spelling_of_an_address_passes_for_a_name(host: str) -> None:
    """Some resolvers take these for addresses; a network that does not hold them allows none."""
    assert AddressRules.parse(["10.0.0.0/8", "engine.example"]).refuses_host(host)


def test_endpoints_of_a_service_are_pods() -> None:
    """Any address may be a pod's, but for those that never are."""
    rules = AddressRules.parse([])

    assert rules.allows_listed("10.244.1.17")
    assert rules.allows_listed("fd00::17")
    assert not rules.allows_listed("127.0.0.1")
    assert not rules.allows_listed("169.254.169.254")
    assert AddressRules.parse(["127.0.0.0/8"]).allows_listed("127.0.0.1")


@pytest.mark.parametrize("entry", ["http://x", "x:80", "10.0.0.1/8", "", "a b", "*.x"])
def test_a_wrong_entry_is_named(entry: str) -> None:
    """A setting that is neither a host nor a network is an error."""
    with pytest.raises(ValueError, match="neither a host name"):
        AddressRules.parse([entry])

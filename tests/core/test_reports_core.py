"""What reporters state: what counts, for how long, and what may be forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.core import reports as core
from keda_scaler.core.readings import Missing
from keda_scaler.core.reports import (
    MAX_REPORTERS,
    NO_REPORT,
    SILENT_SECONDS,
    SWEEP_SECONDS,
    YOUNG,
    YOUNG_SECONDS,
    Kept,
    Ledger,
    Statement,
    Tally,
    carried,
    next_change,
    tally,
)
from keda_scaler.errors import TooManyReportsError
from report_for_tests import report

NOW = 1000.0
ABOUT = ("models", "llama")

statements = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.builds(
        Statement,
        waiting=st.sampled_from([0, 0, 1, 7]),
        running=st.sampled_from([0, 0, 2]),
        expires_at=st.floats(NOW - 400, NOW + 100),
    ),
)


def known(ledger: Ledger, now: float) -> Tally | Missing:
    return tally(Kept(ledger.statements(ABOUT), now), now)


@given(statements)
def test_zero_is_only_what_somebody_states_and_nobody_contradicts(
    found: dict[str, Statement],
) -> None:
    """The sum is that of live reports; it is zero only if one lives and nobody fell silent."""
    live = [each for each in found.values() if each.expires_at > NOW]
    silent = [
        each
        for each in found.values()
        if each.expires_at <= NOW < each.expires_at + SILENT_SECONDS
        and each.waiting + each.running > 0
    ]
    got = tally(Kept(found, NOW - 1), NOW)
    waiting, running = sum(each.waiting for each in live), sum(each.running for each in live)
    if waiting + running > 0 or (live and not silent):
        assert got == Tally(waiting, running, NOW - 1)
    else:
        assert isinstance(got, Missing)


@given(statements, st.floats(NOW - 100, NOW), st.floats(0, 1))
def test_nothing_changes_before_the_next_change(
    found: dict[str, Statement], since: float, share: float
) -> None:
    """Between two changes the tally stands, so that one timer is enough."""
    kept = Kept(found, 0, since)
    change = next_change(kept, NOW)
    end = NOW + 1000 if change is None else change
    then = NOW + (end - NOW) * share
    assert change is None or change > NOW
    if then < end:
        assert tally(kept, then) == tally(kept, NOW)


def test_a_report_holds_as_long_as_it_says() -> None:
    """Until its ttl it counts, whoever asks; then nothing is known."""
    ledger = Ledger()
    assert known(ledger, NOW) == Missing(NO_REPORT)

    assert ledger.state([report(waiting=0)], NOW) == [ABOUT]

    assert known(ledger, NOW + 29.9) == Tally(0, 0, NOW + 29.9)
    assert known(ledger, NOW + 30) == Missing(NO_REPORT)


def test_a_report_replaces_the_one_before() -> None:
    """Counts are absolute: the same one twice counts once, also within one request."""
    ledger = Ledger()
    ledger.state([report(waiting=5), report(waiting=3, running=1)], NOW)
    ledger.state([report("b", waiting=2)], NOW)

    assert known(ledger, NOW) == Tally(5, 1, NOW)

    ledger.state([report(waiting=1)], NOW)
    assert known(ledger, NOW) == Tally(3, 0, NOW)


def test_who_falls_silent_with_requests_is_remembered() -> None:
    """The others' zeros prove nothing for so long; their requests count as ever."""
    ledger = Ledger()
    ledger.state([report("b", running=1, ttl=10), report("a", ttl=86400)], NOW)

    assert known(ledger, NOW + 10) == Missing("reporter b fell silent")
    ledger.state([report("c", waiting=2, ttl=20)], NOW + 10)
    assert known(ledger, NOW + 11) == Tally(2, 0, NOW + 11)
    ledger.state([report("c", ttl=600)], NOW + 20)
    assert known(ledger, NOW + 21) == Missing("reporter b fell silent")
    assert known(ledger, NOW + 10 + SILENT_SECONDS) == Tally(0, 0, NOW + 10 + SILENT_SECONDS)


def test_one_reporter_too_many() -> None:
    """Nothing of that request is taken in, known reporters go on, a forgotten one makes room."""
    ledger = Ledger()
    for number in range(MAX_REPORTERS):
        ledger.state([report(f"r{number}", ttl=10 if number else 86400)], NOW)

    with pytest.raises(TooManyReportsError, match=r"^models/llama .* more than 100 reporters"):
        ledger.state([report("r0", waiting=9), report("other", name="other"), report("new")], NOW)
    assert known(ledger, NOW) == Tally(0, 0, NOW)
    assert len(ledger) == 1

    ledger.state([report("r0", waiting=1)], NOW)
    assert known(ledger, NOW) == Tally(1, 0, NOW)
    ledger.state([report("new", waiting=1)], NOW + 10)
    assert len(ledger.statements(ABOUT)) == 2


def test_one_scaled_object_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, the known ones go on, and what is forgotten makes room."""
    monkeypatch.setattr(core, "MAX_REPORTED", 2)
    ledger = Ledger()
    ledger.state([report(name="llama"), report(name="b", waiting=1)], NOW)

    for _ in range(2):  # also when it was looked just now what is forgotten
        with pytest.raises(TooManyReportsError, match="more than 2 ScaledObjects"):
            ledger.state([report(name="llama", waiting=5), report(name="c")], NOW)
    assert known(ledger, NOW) == Tally(0, 0, NOW)
    ledger.state([report(name="llama", waiting=5, ttl=1), report(name="b")], NOW)
    assert known(ledger, NOW) == Tally(5, 0, NOW)

    ledger.state([report(name="c")], NOW + 30)  # b is forgotten, llama fell silent
    assert len(ledger) == 2
    later = NOW + 30 + SILENT_SECONDS + SWEEP_SECONDS
    ledger.state([report(name="c"), report(name="d")], later)
    assert len(ledger) == 2
    assert not ledger.statements(ABOUT)


def test_one_namespace_leaves_the_others_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own known ones go on, and what is forgotten makes room."""
    monkeypatch.setattr(core, "MAX_REPORTED_OF_NAMESPACE", 2)
    ledger = Ledger()
    ledger.state([report(name="a", ttl=10), report(name="b", ttl=60)], NOW)

    with pytest.raises(TooManyReportsError, match="2 ScaledObjects of namespace models"):
        ledger.state([report(name="a"), report(name="c", namespace="other"), report(name="d")], NOW)
    assert len(ledger) == 2
    ledger.state([report(name="a", ttl=10), report(name="c", namespace="other")], NOW)

    ledger.state([report(name="d")], NOW + 20)
    with pytest.raises(TooManyReportsError):
        ledger.state([report(name="a")], NOW + 20)


def test_what_was_stated_and_is_lost_proves_nothing() -> None:
    """A Redis that comes back empty: until the promise is over, and 300 s longer after requests."""
    batch, gateway = Statement(3, 0, 3600.0), Statement(0, 0, 40.0)
    before = {"batch": batch, "old": gateway, "gateway": gateway}
    now = {"gateway": Statement(0, 0, 100.0)}

    known = carried(before, now, 30.0)
    assert known == now | {
        "batch": Statement(3, 0, 3600.0, is_lost=True),
        "old": Statement(0, 0, 40.0, is_lost=True),
    }
    assert tally(Kept(known, 30.0), 30.0) == Missing("what reporter batch stated is lost")
    assert carried(known, now, 3900.0) == now
    assert tally(Kept(carried(known, now, 50.0), 50.0), 50.0) == Missing(
        "what reporter batch stated is lost"
    )
    spoken = now | {"batch": Statement(0, 0, 100.0)}
    assert tally(Kept(carried(known, spoken, 50.0), 50.0), 50.0) == Tally(0, 0, 50.0)


def test_zeros_prove_nothing_to_who_is_new() -> None:
    """What was stated before a restart is lost; who reports every minute has his turn first."""
    zero, some = {"gateway": Statement(0, 0, 3600.0)}, {"batch": Statement(3, 0, 3600.0)}
    young, settled = 10.0 + YOUNG_SECONDS - 0.1, 10.0 + YOUNG_SECONDS

    assert tally(Kept(zero, young, 10.0), young) == Tally(0, 0, young, doubt=YOUNG)
    assert tally(Kept(zero, settled, 10.0), settled) == Tally(0, 0, settled)
    assert tally(Kept(zero | some, young, 10.0), young) == Tally(3, 0, young)
    assert tally(Kept({}, young, 10.0), young) == Missing(NO_REPORT)


def test_what_is_lost_is_bounded() -> None:
    """As many reporters as may be, however often they go under other names."""
    lost = {str(number): Statement(1, 0, 100.0) for number in range(2 * MAX_REPORTERS)}

    assert len(carried(lost, {}, 0.0)) == MAX_REPORTERS

"""The fault table: what every fault leads to, second by second, with KEDA at its worst."""

import re
from dataclasses import replace

import pytest

import fault_page
from fault_page import outcome
from fault_play import SCALED_OBJECT, Outcome, Play, Played, play
from fault_scene import Fault, Hits, Load, Scene
from fault_scenes import ENDS, REASONS, SOURCES, START, TABLES, WAKING, Row

ROWS = [row for rows in TABLES.values() for row in rows]
PROOF_SECONDS = SCALED_OBJECT.cooldown_period + 30 - SCALED_OBJECT.polling_interval
"""`cooldownPeriod` and `idleSeconds`, but for KEDA's poll, which may come late."""

pytestmark = pytest.mark.xdist_group("faults")  # rows are played once per process


def named(rows: tuple[Row, ...] | list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=lambda row: str(row.name))


def assert_asleep_on_proof(played: Played) -> None:
    for sleep in played.sleeps:
        assert not sleep.works, f"asleep at {sleep.at} with work"
        assert sleep.proven >= PROOF_SECONDS, f"asleep at {sleep.at} without proof"


@named([row for row in ROWS if not row.by_choice])
def test_nothing_sleeps_but_on_proof(row: Row) -> None:
    """Without KEDA's race and with it, work and unknown work stay awake."""
    played = outcome(row.name)

    assert_asleep_on_proof(played.plain)
    assert_asleep_on_proof(played.raced)


@named([row for row in ROWS if row.by_choice])
def test_stuck_replicas_sleep_where_the_trigger_says_so(row: Row) -> None:
    """`onStuck: idle` puts to sleep what does not move, and not before stuckSeconds."""
    sleeps = outcome(row.name).plain.sleeps

    assert [sleep.works for sleep in sleeps] == [False]
    assert sleeps[0].at >= START + 600 + PROOF_SECONDS


@named(ENDS)
def test_the_guarantee_ends_where_the_page_says(row: Row) -> None:
    """These rows are honest: replicas with work do go to sleep."""
    assert any(sleep.works for sleep in outcome(row.name).raced.sleeps)


@named(ENDS[:5])
def test_only_the_race_makes_an_error_deadly(row: Row) -> None:
    """KEDA without it leaves replicas alone for as long as it gets errors."""
    assert not any(sleep.works for sleep in outcome(row.name).plain.sleeps)


@named([row for row in ENDS if row.mended])
async def test_what_to_do_about_it_helps(row: Row) -> None:
    """The trigger key in the last column keeps the replicas awake."""
    mended = replace(row.scene, keys={**row.scene.keys, **row.mended})
    played = play(mended)

    assert not any(sleep.works for sleep in played.plain.sleeps)
    assert not any(sleep.works for sleep in played.raced.sleeps)


@named([row for row in WAKING if not row.scene.replicas])
def test_what_waits_at_the_gateway_wakes(row: Row) -> None:
    """Whatever goes wrong meanwhile, a request gets its replica."""
    replicas = outcome(row.name).plain.replicas

    assert replicas[START - 1] == 0
    assert max(replicas) == 1


@named([row for row in SOURCES if row.scene.load[0].until > row.scene.seconds])
def test_faults_leave_busy_replicas_alone(row: Row) -> None:
    """Neither fewer nor more of them."""
    played = outcome(row.name)

    assert set(played.plain.replicas) == set(played.raced.replicas) == {3}


def test_a_counter_that_falls_does_not_wake() -> None:
    """The gateway began anew, and nobody asked for anything until its counter rose again."""
    replicas = outcome("counter-reset").plain.replicas

    assert set(replicas[START : START + 120]) == {0}
    assert replicas[START + 120] == 1


def test_the_hold_is_over_after_hold_seconds() -> None:
    """From then on KEDA gets the error that it can be told of by nobody else."""
    said = outcome("twenty-minutes").plain.said
    over = [second for second, each in enumerate(said) if each.why == "hold-over"]

    # Polls every 5 s: the last good one was at second 55, and counted for 15 s.
    assert (over[0], over[-1]) == (55 + 15 + 900, START + 1199)
    assert {said[second].active for second in over} == {"UNAVAILABLE"}


def test_the_lease_is_over_after_cold_start_seconds() -> None:
    """A replica that still loads is held then, so that its start is not in vain."""
    said = outcome("slow-start").plain.said

    assert [said[START + second].why for second in (0, 299, 300)] == ["waking", "waking", "hold"]


async def test_work_that_ends_sleeps_after_the_cooldown() -> None:
    """Without any fault it does, so that a test of what stays awake can fail."""
    played = play(Scene(seconds=START + 420, replicas=2, load=(Load(0, START, 10),)))

    assert [sleep.works for sleep in played.plain.sleeps] == [False]
    assert_asleep_on_proof(played.plain)


async def test_the_books_see_a_sleep_without_proof() -> None:
    """A wrong "idle" would be found: here Kubernetes says it, of replicas that work."""
    fault = Fault(Hits.ENDPOINTS, START, START + 600)
    scene = Scene(seconds=START + 600, replicas=1, load=(Load(0, 9999, 1),), faults=(fault,))
    with pytest.raises(AssertionError, match="with work"):
        assert_asleep_on_proof(Play(scene).run())


def test_the_document_is_up_to_date() -> None:
    """`tools/render-faults` writes its tables anew."""
    written = fault_page.PAGE.read_text()

    assert written == fault_page.render(written), "run tools/render-faults"


def test_every_row_is_a_row_of_the_document() -> None:
    """Once each, in tables that all stand on the page."""
    written = fault_page.PAGE.read_text()
    names = re.findall(r"^\| ([a-z0-9-]+) \|", written, re.MULTILINE)

    assert [name for name in names if name != "row"] == [row.name for row in (*ROWS, *ENDS)]
    assert len(set(names)) == len(ROWS) + len(ENDS) + 1


def test_every_reason_is_used() -> None:
    """What real sources say is what the rows play."""
    assert {row.says for row in ROWS} - {""} == set(REASONS.values())


def test_the_race_only_matters_where_there_are_errors() -> None:
    """Rows that never see one are played once, and count for both."""
    found: list[Outcome] = [outcome(row.name) for row in ROWS]

    assert all((each.raced is each.plain) == (each.plain.errors == 0) for each in found)

"""Which replicas there are, from the series and scrape targets that Prometheus has."""

from collections.abc import Iterable

import pytest

from keda_scaler.core.readings import Engine, Missing, Readings, Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Space
from keda_scaler.sources import promreplicas
from keda_scaler.sources.promreplicas import UNNAMED
from prometheus_sink import trigger_of

NOW = 1000.0
A = {"pod": "a", "instance": "10.0.0.1:8000", "job": "vllm"}
B = {"pod": "b", "instance": "10.0.0.2:8000", "job": "vllm"}


def samples(
    labels: dict[str, str], waiting: float, *, at: float = NOW - 1, engine: str = "0"
) -> list[Sample]:
    """Make what a vLLM engine prints, with the labels of a scrape."""
    own = {"model_name": "llama", "engine": engine} | labels
    return [
        Sample("vllm:num_requests_waiting", own, waiting, at),
        Sample("vllm:num_requests_running", own, 1.0, at),
        Sample("vllm:kv_cache_usage_perc", own, 0.5, at),
    ]


NOT_SEEN = "scraped, but no series of a known engine within staleSeconds (5)"


def scrape(labels: dict[str, str], *, succeeded: bool = True) -> Sample:
    """Make the scrape target of these labels."""
    return Sample("up", labels, 1.0 if succeeded else 0.0, NOW)


Answer = tuple[Readings, Engine | None]


class Roster:
    """A roster that is given samples as they come."""

    def __init__(self, trigger: Trigger) -> None:
        self._trigger = trigger
        self._roster = promreplicas.Roster(trigger)

    def remember(self, found: Iterable[Sample], now: float) -> None:
        self._roster.remember(self._space(found), now)

    def replicas(
        self,
        found: Iterable[Sample],
        scrapes: Iterable[Sample],
        now: float,
        *,
        is_young: bool = False,
    ) -> dict[str, Answer]:
        space = self._space(found)
        for each in scrapes:
            space.add_scrape(each)
        return self._roster.replicas(space, now, is_young=is_young)

    @property
    def loading(self) -> frozenset[str]:
        return self._roster.loading

    def _space(self, found: Iterable[Sample]) -> Space:
        space = Space("models", [self._trigger.engine])
        for sample in found:
            space.add(sample)
        return space


def waiting(replica: Answer) -> float:
    """Give the queue depth, which must be a number."""
    reading = replica[0][Signal.QUEUE_DEPTH]
    assert isinstance(reading, Value)
    return reading.number


def problem(replica: Answer) -> str:
    """Give the reason why there is no queue depth."""
    reading = replica[0][Signal.QUEUE_DEPTH]
    assert isinstance(reading, Missing)
    return reading.reason


def test_readings_are_as_old_as_their_samples() -> None:
    """A sample keeps its own time, whatever the time of the poll."""
    found = Roster(trigger_of()).replicas(samples(A, 3, at=NOW - 4), [scrape(A)], NOW)
    assert found["a"][0][Signal.QUEUE_DEPTH] == Value(3, NOW - 4)


def test_data_parallel_engines_of_a_pod_add_up() -> None:
    """Series of one scrape that differ in the engine's own labels are all counted."""
    both = samples(A, 3) + samples(A, 4, engine="1")
    assert waiting(Roster(trigger_of()).replicas(both, [scrape(A)], NOW)["a"]) == 7


@pytest.mark.parametrize("label", ["job", "service", "endpoint", "container"])
def test_an_address_scraped_twice_counts_once(label: str) -> None:
    """Whatever label tells two scrapes of an address apart, its requests count once: the newest."""
    other = A | {label: "other"}
    twice = samples(A, 3, at=NOW - 2) + samples(other, 4, at=NOW - 1)
    for order in (twice, twice[::-1]):
        found = Roster(trigger_of()).replicas(order, [scrape(A), scrape(other)], NOW)
        assert waiting(found["a"]) == 4


def test_of_two_scrapes_the_complete_one_is_read() -> None:
    """A job that drops families does not hide what the other job has."""
    other = A | {"job": "other"}
    both = samples(A, 3, at=NOW - 2) + samples(other, 3, at=NOW - 1)[:1]
    found = Roster(trigger_of()).replicas(both, [scrape(A), scrape(other)], NOW)
    assert isinstance(found["a"][0][Signal.CONCURRENCY], Value)


def test_a_failed_scrape_gives_way_to_one_that_succeeds() -> None:
    """Of two jobs that scrape an address, one that cannot reach it does no harm."""
    other = A | {"job": "other"}
    both = samples(A, 3) + samples(other, 4)
    found = Roster(trigger_of()).replicas(both, [scrape(A, succeeded=False), scrape(other)], NOW)
    assert waiting(found["a"]) == 4


def test_a_failed_scrape_hides_the_samples_before_it() -> None:
    """A replica that cannot be scraped does not answer, although it did a second ago."""
    found = Roster(trigger_of()).replicas(samples(A, 3), [scrape(A, succeeded=False)], NOW)
    assert problem(found["a"]) == "Prometheus cannot scrape it (up is 0)"


def test_one_silent_part_makes_a_replica_silent() -> None:
    """The sum over a pod's engines is never made without one of them."""
    second = A | {"instance": "10.0.0.1:8001"}
    roster = Roster(trigger_of())
    targets = [scrape(A), scrape(second)]
    assert waiting(roster.replicas(samples(A, 3) + samples(second, 4), targets, NOW)["a"]) == 7
    found = roster.replicas(samples(A, 3), targets, NOW)
    assert problem(found["a"]) == NOT_SEEN


def test_a_stale_sample_is_no_answer() -> None:
    """A sample older than staleSeconds shows that the replica is there, and nothing else."""
    found = Roster(trigger_of()).replicas(samples(A, 3, at=NOW - 6), [scrape(A)], NOW)
    assert problem(found["a"]) == NOT_SEEN


def test_scrape_targets_without_an_engine_are_no_replicas() -> None:
    """Pods of the namespace that never showed the engine's series do not matter."""
    other = Sample("process_cpu_seconds_total", B, 1, NOW)
    found = Roster(trigger_of()).replicas([*samples(A, 3), other], [scrape(A), scrape(B)], NOW)
    assert list(found) == ["a"]


def test_a_replica_is_never_forgotten_while_it_is_scraped() -> None:
    """A known busy pod that cannot be scraped for hours is no proof of no work."""
    roster = Roster(trigger_of())
    roster.remember(samples(A, 3), NOW)
    for hours in (1, 2, 200):
        down = [scrape(A, succeeded=False)]
        assert list(roster.replicas([], down, NOW + 3600 * hours)) == ["a"]
    assert list(roster.replicas([], [], NOW + 3600 * 201)) == []


def test_a_replica_that_comes_back_is_known_for_an_hour() -> None:
    """A pod of a StatefulSet has its name again, and no series yet."""
    other = scrape({"pod": "x", "instance": "10.0.0.9:9100", "job": "nodes"})
    for later, known in ((3600, ["a"]), (3601, [])):
        roster = Roster(trigger_of())
        roster.replicas(samples(A, 3), [scrape(A), other], NOW)
        assert list(roster.replicas([], [other], NOW + 60)) == []
        assert list(roster.replicas([], [other], NOW + later)) == []
        assert list(roster.replicas([], [scrape(A, succeeded=False)], NOW + later)) == known


def test_scrapes_that_run_out_do_not_say_that_a_replica_is_gone() -> None:
    """An agent that died takes `up` with it five minutes later; Prometheus ends it at once."""
    roster = Roster(trigger_of())
    roster.replicas(samples(A, 3), [scrape(A)], NOW)
    other = scrape({"pod": "x", "instance": "10.0.0.9:9100", "job": "nodes"})
    late = NOW + 301
    assert problem(roster.replicas([], [other], late)["a"]).startswith("its scrapes ended")
    assert list(roster.replicas([], [other, scrape(B)], late)) != ["a"]

    ended = Roster(trigger_of())
    ended.replicas(samples(A, 3), [scrape(A)], NOW)
    assert list(ended.replicas([], [other], NOW + 5)) == []
    assert list(ended.replicas([], [other], late)) == []


def test_scrapes_run_out_from_the_last_of_them() -> None:
    """With a long `staleSeconds` the last samples are there for long, and count no scrape more."""
    roster = Roster(trigger_of(staleSeconds="90"))
    other = scrape({"pod": "x", "instance": "10.0.0.9:9100", "job": "nodes"})
    last = samples(A, 3, at=NOW)
    roster.replicas(last, [scrape(A), other], NOW + 89)
    roster.replicas([], [scrape(A), other], NOW + 299)
    assert problem(roster.replicas([], [other], NOW + 301)["a"]).startswith("its scrapes ended")


def test_scrapes_that_run_out_after_a_start_do_not_say_that_a_replica_is_gone() -> None:
    """The agent died before we began: the week's series were seen, and none of a scrape."""
    roster = Roster(trigger_of())
    other = scrape({"pod": "x", "instance": "10.0.0.9:9100", "job": "nodes"})
    roster.remember(samples(A, 3, at=NOW), NOW)
    roster.replicas([], [scrape(A), other], NOW)
    assert problem(roster.replicas([], [other], NOW + 20)["a"]).startswith("its scrapes ended")


def test_what_a_young_prometheus_has_not_scraped_yet_is_not_gone() -> None:
    """It came back with an empty disk, and another target of it has an `up` already."""
    roster = Roster(trigger_of())
    roster.replicas(samples(A, 3), [scrape(A)], NOW)
    other = scrape({"pod": "x", "instance": "10.0.0.9:9100", "job": "nodes"})
    found = roster.replicas([], [scrape(B)], NOW + 30, is_young=True)
    assert problem(found["a"]) == "this Prometheus has not scraped it yet"
    roster.replicas([], [other], NOW + 240, is_young=True)
    assert problem(roster.replicas([], [other], NOW + 300)["a"]).startswith("its scrapes ended")
    assert list(roster.replicas([], [other, scrape(B)], NOW + 310)) == [], "its job scrapes another"
    assert list(roster.replicas([], [other], NOW + 320)) == []


def test_what_failed_when_prometheus_lost_its_data_is_not_gone() -> None:
    """It crashed at the last scrape; four minutes later nobody scrapes it yet."""
    roster = Roster(trigger_of())
    other = scrape({"pod": "x", "instance": "10.0.0.9:9100", "job": "nodes"})
    roster.replicas(samples(A, 3), [scrape(A), other], NOW)
    roster.replicas([], [scrape(A, succeeded=False), other], NOW + 5)
    roster.replicas([], [other], NOW + 10, is_young=True)
    assert problem(roster.replicas([], [other], NOW + 300)["a"]).startswith("its scrapes ended")


def test_what_loaded_when_prometheus_lost_its_data_is_not_gone() -> None:
    """A new pod of the workload had nothing but an `up` of 0, and works by now."""
    roster = Roster(trigger_of())
    other = scrape({"pod": "x", "instance": "10.0.0.9:9100", "job": "nodes"})
    old = {"pod": "llama-0", "instance": "10.0.0.1:8000", "job": "vllm"}
    new = {"pod": "llama-1", "instance": "10.0.0.2:8000", "job": "vllm"}
    roster.replicas(samples(old, 3), [scrape(old), other], NOW)
    assert list(roster.replicas([], [scrape(new, succeeded=False), other], NOW + 5)) == ["llama-1"]
    assert list(roster.replicas([], [other], NOW + 10, is_young=True)) == ["llama-1"]
    assert roster.loading == {"llama-1"}
    assert list(roster.replicas([], [other], NOW + 300)) == ["llama-1"]
    told = samples(new, 3, at=NOW + 304)
    assert list(roster.replicas(told, [scrape(new), other], NOW + 305)) == ["llama-1"]
    assert roster.loading == frozenset()
    assert list(roster.replicas([], [other], NOW + 306)) == []


def test_what_was_gone_before_prometheus_lost_its_data_is_gone() -> None:
    """A model that was put to sleep is not woken by that."""
    roster = Roster(trigger_of())
    other = scrape({"pod": "x", "instance": "10.0.0.9:9100", "job": "nodes"})
    roster.replicas(samples(A, 3), [scrape(A), other], NOW)
    assert list(roster.replicas([], [other], NOW + 5)) == []
    assert list(roster.replicas([], [other], NOW + 60, is_young=True)) == []


SELECTOR = 'job="vllm"'


def test_with_a_selector_every_address_that_it_selects_is_a_replica() -> None:
    """One that cannot be scraped loads or is broken; one that has no series is not understood."""
    roster = Roster(trigger_of(selector=SELECTOR))
    down, bare = scrape(A, succeeded=False), scrape(B)
    other = scrape({"pod": "c", "instance": "10.0.0.3:8000", "job": "else"})
    found = roster.replicas([], [down, bare, other], NOW)
    assert problem(found["a"]) == "Prometheus cannot scrape it (up is 0)"
    assert problem(found["b"]) == NOT_SEEN
    assert sorted(found) == ["a", "b"]
    assert roster.loading == {"a"}


@pytest.mark.parametrize("selector", ['model_name="llama"', 'model_name!="qwen"', 'tier=""'])
def test_a_selector_of_the_engines_own_labels_selects_no_scrapes(selector: str) -> None:
    """What a scrape does not say is not true of it."""
    assert Roster(trigger_of(selector=selector)).replicas([], [scrape(A)], NOW) == {}


def test_a_sidecar_that_is_selected_is_no_replica() -> None:
    """Nor is a part of a replica that it hides: its pod has the engine's series already."""
    sidecar = A | {"instance": "10.0.0.1:9000"}
    roster = Roster(trigger_of(selector=SELECTOR))
    assert waiting(roster.replicas(samples(A, 3), [scrape(A), scrape(sidecar)], NOW)["a"]) == 3


def test_replicas_of_another_model_are_not_selected() -> None:
    """Of a job that serves several; nor while they cannot be scraped."""
    roster = Roster(trigger_of(selector=SELECTOR, model="llama"))
    qwen = samples(B | {"model_name": "qwen"}, 3)
    assert list(roster.replicas(samples(A, 3) + qwen, [scrape(A), scrape(B)], NOW)) == ["a"]
    later = [scrape(A), scrape(B, succeeded=False)]
    assert list(roster.replicas(samples(A, 3), later, NOW + 2)) == ["a"]


@pytest.mark.parametrize(
    ("old", "new", "alike"),
    [
        ("llama-7d9f8c6b5-x2x7k", "llama-5c4d9f7b8-9qz2w", True),
        ("llama-0", "llama-1", True),
        ("llama-7d9f8c6b5-x2x7k", "qwen-5c4d9f7b8-9qz2w", False),
        ("llama-0", "llama-0-1", False),
    ],
)
def test_a_pod_of_a_known_workload_is_a_replica(old: str, new: str, alike: bool) -> None:  # noqa: FBT001
    """A new version whose families have other names is not understood, and not idle."""
    roster = Roster(trigger_of())
    roster.replicas(samples(A | {"pod": old}, 0), [scrape(A | {"pod": old})], NOW)
    found = roster.replicas([], [scrape(B | {"pod": new})], NOW + 2)
    assert list(found) == ([new] if alike else [])
    assert list(roster.replicas([], [scrape(B | {"pod": new, "job": "x"})], NOW + 2)) == []


def test_names_are_right_once_they_matched() -> None:
    """Until then, no series is no answer."""
    roster = promreplicas.Roster(trigger_of(model="lama"))
    space = Space("models", ["auto"])
    for sample in samples(A, 3):
        space.add(sample)
    roster.remember(space, NOW)
    assert not roster.is_right
    space.add(Sample("vllm:num_requests_running", A | {"model_name": "lama"}, 0.0, NOW))
    roster.remember(space, NOW)
    assert roster.is_right


def test_a_replica_that_changes_its_model_does_not_answer() -> None:
    """It is listed still, and says which model it serves instead."""
    roster = Roster(trigger_of(model="llama"))
    roster.remember(samples(A, 3), NOW)
    changed = samples(A | {"model_name": "qwen"}, 3)
    found = roster.replicas(changed, [scrape(A)], NOW)
    assert problem(found["a"]) == "no series of model 'llama'; there are: qwen"


def test_a_target_that_is_gone_is_no_replica() -> None:
    """Once its `up` is gone, the samples of a moment ago do not keep a pod listed."""
    roster = Roster(trigger_of())
    assert list(roster.replicas(samples(A, 3), [scrape(A)], NOW)) == ["a"]
    assert list(roster.replicas(samples(A, 3), [], NOW)) == []


def test_relayed_series_are_not_taken_for_no_work() -> None:
    """Series that arrive without any scrape of ours are listed and not answering: not a zero."""
    found = Roster(trigger_of()).replicas(samples(A, 3), [scrape(B)], NOW)
    assert problem(found["a"]) == (
        "no up series has the pod, instance and job of vllm:kv_cache_usage_perc"
    )


def test_series_that_say_not_whose_they_are_do_not_answer() -> None:
    """Series without a pod and an instance are of some engine, and of which is unknown."""
    found = Roster(trigger_of()).replicas(samples({"job": "vllm"}, 3), [scrape(A)], NOW)
    assert list(found) == [UNNAMED]
    assert problem(found[UNNAMED]) == (
        "vllm:kv_cache_usage_perc has neither a pod nor an instance label"
    )


def test_without_pods_a_replica_is_its_address() -> None:
    """Outside Kubernetes the scraped address names the replica."""
    labels = {"instance": "10.0.0.1:8000", "job": "vllm"}
    found = Roster(trigger_of()).replicas(samples(labels, 3), [scrape(labels)], NOW)
    assert waiting(found["10.0.0.1:8000"]) == 3


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pods come and go, only so many are remembered: the latest."""
    monkeypatch.setattr(promreplicas, "MAX_PARTS", 2)
    roster = Roster(trigger_of())
    pods = [A | {"pod": pod} for pod in "abcd"]
    for second, pod in enumerate(pods):
        roster.remember(samples(pod, 3), NOW + second)
    found = roster.replicas([], [scrape(pod) for pod in pods], NOW + 4)
    assert sorted(found) == ["c", "d"]


def test_memory_of_other_models_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise, and for an hour after they are gone."""
    monkeypatch.setattr(promreplicas, "MAX_PARTS", 2)
    roster = Roster(trigger_of(model="llama", selector=SELECTOR))
    for second, pod in enumerate("bcd"):
        roster.replicas(
            samples(A | {"pod": pod, "model_name": "qwen"}, 3), [scrape(A)], NOW + second
        )
    gone = [scrape(A | {"pod": pod}, succeeded=False) for pod in "bcd"]
    assert sorted(roster.replicas([], gone, NOW + 4)) == ["b"]

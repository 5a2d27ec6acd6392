"""Which replicas a Prometheus knows of, and what the samples of each say. No I/O, no clock.

Rules:

- A replica is a pod, else a scraped address (`instance`). It has one part per scraped address.
- A part is listed when its series matched the trigger now or within the last hour, and an `up`
  series with its labels exists. Once `up` is gone, so is the part: Prometheus scrapes it no more.
- A part that never had an `up` series and has samples all the same (somebody relays them) is listed
  and not answering. Leaving it out would turn an engine at work into a proof of no work.
- An address that two jobs scrape gives the same series twice. One job is read, the other is not.
- One part that does not answer makes its replica not answer: a sum without it would be too small.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keda_scaler import engines
from keda_scaler.core.readings import Engine, Readings
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines import devices
from keda_scaler.engines.devices import DeviceReadings
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Part, Space

REMEMBERED_SECONDS = 3600.0
"""How long a part that shows no series of the engine any more is still one of its replicas."""

MAX_PARTS = 20_000
"""Parts that are remembered; as many as one answer may have series."""

UNNAMED = "(no pod or instance)"
"""Stands for all series that do not say whose they are."""


@dataclass(slots=True)
class _Seen:
    at: float
    """When its series matched the trigger last, in monotonic seconds."""

    scraped: bool
    """Whether an `up` series with its labels was ever there."""


class Roster:
    """The replicas of one target, from one answer of Prometheus to the next."""

    def __init__(self, trigger: Trigger) -> None:
        self._trigger = trigger
        self._names = engines.names(trigger.engine, latencies=trigger.reads_latencies)
        """What may be there beside them is for other targets of the namespace."""
        self._seen: dict[Part, _Seen] = {}  # in the order of `at`

    def __contains__(self, part: Part) -> bool:
        return part in self._seen

    def remember(self, space: Space, now: float) -> None:
        """Take note of the parts whose series match the trigger; forget those of an hour ago."""
        trigger = self._trigger
        concerned = space.selected(trigger.selector).concerned(trigger.engine, trigger.model)
        for part in concerned:
            seen = self._seen.pop(part, None)
            self._seen[part] = _Seen(now, scraped=seen is not None and seen.scraped)
        for part, seen in list(self._seen.items()):
            if now - seen.at <= REMEMBERED_SECONDS and len(self._seen) <= MAX_PARTS:
                break
            del self._seen[part]

    def replicas(
        self, space: Space, now: float, *, with_gpus: bool = False
    ) -> dict[str, tuple[Readings, Engine | None]]:
        """Give the replicas that exist by name, and what each one's samples say.

        With what exporters say of the GPUs of each, or without.
        """
        self.remember(space, now)
        parts = space.selected(self._trigger.selector).parts
        answers: defaultdict[str, list[list[Sample] | str]] = defaultdict(list)
        for part in sorted(self._seen):
            fresh = [
                sample
                for sample in parts.get(part, ())
                if now - sample.at <= self._trigger.stale_after and sample.name in self._names
            ]
            answer = self._answer(part, fresh, space.jobs.get(part))
            if answer is not None:
                answers[replica_of(part)].append(answer)
        gpus = space.gpus if with_gpus else {}
        none = DeviceReadings(devices.ABSENT, devices.ABSENT)
        return {
            name: self._readings(parts, gpus.get(name, none)) for name, parts in answers.items()
        }

    def _answer(
        self, part: Part, samples: Sequence[Sample], jobs: Mapping[str, bool] | None
    ) -> list[Sample] | str | None:
        """Give a part's samples, or why there are none; None: the part does not exist any more."""
        seen = self._seen[part]
        if jobs is None:
            if seen.scraped or not samples:
                return None
            if replica_of(part) == UNNAMED:
                return f"{_first_name(samples)} has neither a pod nor an instance label"
            return f"no up series has the pod, instance and job of {_first_name(samples)}"
        seen.scraped = True
        by_scrape: defaultdict[tuple[str, ...], list[Sample]] = defaultdict(list)
        for sample in samples:
            if jobs.get(sample.labels.get("job", "")):
                by_scrape[_scrape(sample.labels)].append(sample)
        if len(by_scrape) == 1:
            return next(iter(by_scrape.values()))
        if by_scrape:
            return by_scrape[
                max(by_scrape, key=lambda scrape: self._worth(by_scrape[scrape], scrape))
            ]
        if not any(jobs.values()):
            return "Prometheus cannot scrape it (up is 0)"
        engine = self._trigger.engine
        whose = "a known engine" if engine == "auto" else engine
        return (
            f"scraped, but no series of {whose} within staleSeconds ({self._trigger.stale_after:g})"
        )

    def _worth(
        self, samples: Sequence[Sample], scrape: tuple[str, ...]
    ) -> tuple[int, float, tuple[str, ...]]:
        """Rank scrapes of one address: the most complete, then the newest, then by labels."""
        names = {sample.name for sample in samples if self._concerns(sample)}
        return len(names), max(sample.at for sample in samples), scrape

    def _readings(
        self, parts: Sequence[list[Sample] | str], gpus: DeviceReadings
    ) -> tuple[Readings, Engine | None]:
        samples: list[Sample] = []
        for part in parts:
            if isinstance(part, str):
                return engines.missing(part), None
            samples += part
        return engines.read(samples, self._trigger, gpus)

    def _concerns(self, sample: Sample) -> bool:
        return engines.concerns(sample, self._trigger.engine, self._trigger.model)


def _scrape(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Give the labels that tell two scrapes of one address apart, and nothing of the engine."""
    get = labels.get
    return (
        *(get("job", ""), get("service", ""), get("endpoint", ""), get("container", "")),
        *(get("prometheus", ""), get("prometheus_replica", "")),
    )


def replica_of(part: Part) -> str:
    """Name the replica that a part belongs to."""
    return part.pod or part.instance or UNNAMED


def _first_name(samples: Sequence[Sample]) -> str:
    return min(sample.name for sample in samples)

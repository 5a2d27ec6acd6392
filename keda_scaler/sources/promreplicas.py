"""Which replicas a Prometheus knows of, and what the samples of each say. No I/O, no clock.

Rules:

- A replica is a pod, else a scraped address (`instance`). It has one part per scraped address.
- A part is listed when its series matched the trigger now or before, and an `up` series with its
  labels exists. It is never forgotten while that is there. Once `up` is gone, so is the part:
  Prometheus scrapes it no more.
- What `up` shows and nothing else does is listed, too, and not answering: an address that meets the
  trigger's `selector`, and one of the workload and job of a part that is known. One that shows
  another model, or is beside a part that is known in the same pod, is none of ours.
- An `up` that was 1 and ran out, instead of being ended by Prometheus, or that went with its data,
  says that nobody scrapes any more, and not that the part is gone. Its job scraping others does.
- A part that never had an `up` series and has samples all the same (somebody relays them) is listed
  and not answering. Leaving it out would turn an engine at work into a proof of no work.
- An address that two jobs scrape gives the same series twice. One job is read, the other is not.
- One part that does not answer makes its replica not answer: a sum without it would be too small.
- That there is no part is known only once the trigger's names have matched something.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from keda_scaler import engines
from keda_scaler.core.matchers import Matcher
from keda_scaler.core.readings import Engine, Readings
from keda_scaler.core.trigger import Trigger
from keda_scaler.engines import devices
from keda_scaler.engines.devices import DeviceReadings
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Part, Space

REMEMBERED_SECONDS = 3600.0
"""How long a part is known that neither `up` nor a series of the trigger shows any more."""

EXPIRED_SECONDS = 240.0
"""A part whose newest sample is older than that when its `up` is gone was not ended by Prometheus:
`up` stands for five minutes after the last scrape, unless Prometheus knows that the target is
gone."""

WEEK_SECONDS = 604_800.0
"""How long a part is known whose `up` ran out."""

MAX_PARTS = 20_000
"""Parts that are remembered; as many as one answer may have series."""

UNNAMED = "(no pod or instance)"
"""Stands for all series that do not say whose they are."""

_GENERATED = re.compile(
    r"(-[bcdfghjklmnpqrstvwxz2456789]{6,10})?-([bcdfghjklmnpqrstvwxz2456789]{5}|\d+)$"
)
"""The end of a pod's name that Kubernetes makes up: of a Deployment, a StatefulSet or an Indexed
Job. Source: `k8s.io/apimachinery/pkg/util/rand`."""


@dataclass(slots=True)
class _Seen:
    at: float
    """When its series matched the trigger last, in monotonic seconds."""

    told_at: float = -math.inf
    """When the newest of them was scraped, likewise."""

    scraped: bool = False
    """Whether an `up` series with its labels was ever there."""

    up: bool = False
    """Whether the last of them was 1."""

    jobs: frozenset[str] = field(default_factory=frozenset)
    """The jobs of the last of them."""

    is_lost: bool = False
    """Whether they went with the data of Prometheus, which may not scrape it yet."""

    is_gone: bool = False
    """Whether Prometheus ended them: it scrapes the part no more."""


class Roster:
    """The replicas of one target, from one answer of Prometheus to the next."""

    def __init__(self, trigger: Trigger) -> None:
        self.is_right = False
        """Whether series matched the trigger's names ever: only then is "no series" no replica."""
        self.loading: frozenset[str] = frozenset()
        """Of the replicas that were given last, those that never answered and cannot be scraped."""
        self._trigger = trigger
        self._names = engines.names(trigger.engine, latencies=trigger.reads_latencies)
        """What may be there beside them is for other targets of the namespace."""
        self._seen: dict[Part, _Seen] = {}  # in the order of `at`
        self._silent_parts: dict[Part, _Seen] = {}
        """Those that nothing but `up` shows, as of the last round."""
        self._others: dict[Part, float] = {}
        """Parts that showed another model, and when last."""

    def __contains__(self, part: Part) -> bool:
        return part in self._seen

    def remember(self, space: Space, now: float) -> None:
        """Take note of the parts whose series match the trigger."""
        trigger = self._trigger
        selected = space.selected(trigger.selector)
        concerned = selected.concerned(trigger.engine, trigger.model)
        for part in concerned:
            seen = self._seen.pop(part, None) or _Seen(now)
            seen.at = now
            self._seen[part] = seen
            self._others.pop(part, None)
        self.is_right |= bool(concerned)
        if trigger.model is not None:
            every = selected.concerned(trigger.engine, None)
            self._others |= {part: now for part in every if part not in concerned}

    def replicas(
        self, space: Space, now: float, *, with_gpus: bool = False, is_young: bool = False
    ) -> dict[str, tuple[Readings, Engine | None]]:
        """Give the replicas that exist by name, and what each one's samples say.

        With what exporters say of the GPUs of each, or without. `is_young` says that this
        Prometheus began to scrape a short while ago, and may not have come to all of them yet.
        """
        self.remember(space, now)
        self._forget(space, now)
        parts = space.selected(self._trigger.selector).parts
        answers: defaultdict[str, list[list[Sample] | str]] = defaultdict(list)
        for part in sorted(self._seen):
            fresh = [
                sample
                for sample in parts.get(part, ())
                if now - sample.at <= self._trigger.stale_after and sample.name in self._names
            ]
            if fresh:
                self._seen[part].told_at = max(sample.at for sample in fresh)
            answer = self._answer(part, fresh, space, now, is_young=is_young)
            if answer is not None:
                answers[replica_of(part)].append(answer)
        loading: set[str] = set()
        for part, why in sorted(self._silent(space, now, is_young=is_young)):
            if replica_of(part) in answers and replica_of(part) not in loading:
                continue  # a sidecar of one that is known
            answers[replica_of(part)].append(why)
            if not any(space.jobs.get(part, {}).values()):
                loading.add(replica_of(part))
        self.loading = frozenset(loading)
        gpus = space.gpus if with_gpus else {}
        none = DeviceReadings(devices.ABSENT, devices.ABSENT)
        return {
            name: self._readings(parts, gpus.get(name, none)) for name, parts in answers.items()
        }

    def _forget(self, space: Space, now: float) -> None:
        """Forget what is neither scraped nor was seen lately; of too many, the oldest."""
        for part, seen in list(self._seen.items()):
            is_other = part in self._others
            if part in space.jobs and not is_other and len(self._seen) <= MAX_PARTS:
                continue
            is_kept = (seen.up or seen.is_lost) and not (seen.is_gone or is_other)
            kept = WEEK_SECONDS if is_kept else REMEMBERED_SECONDS
            if now - seen.at > kept or len(self._seen) > MAX_PARTS:
                del self._seen[part]
        for part, at in list(self._others.items()):
            is_gone = part not in space.jobs and now - at > REMEMBERED_SECONDS
            if is_gone or len(self._others) > MAX_PARTS:
                del self._others[part]

    def _silent(self, space: Space, now: float, *, is_young: bool) -> Iterator[tuple[Part, str]]:
        """Find parts that are ours by what `up` says, or said, alone; and why none answers."""
        alike = set(self._alike(space))
        self._silent_parts |= {part: _Seen(now) for part in alike - self._silent_parts.keys()}
        for part, seen in list(self._silent_parts.items()):
            jobs = space.jobs.get(part)
            why: str | None = None
            if part in alike:
                seen.jobs, seen.is_lost = frozenset(space.jobs[part]), False
                why = self._silence(space.jobs[part])
            elif jobs is None and part not in self._seen:
                why = self._why_unscraped(seen, space, now, is_young=is_young)
            if why is None or len(self._silent_parts) > MAX_PARTS:
                del self._silent_parts[part]
            else:
                yield part, why

    def _alike(self, space: Space) -> Iterator[Part]:
        """Find parts that the selector selects, and those of a workload and job that is known."""
        pods = {part.pod for part in self._others if part.pod}
        workloads = {
            (_workload(part), job) for part, seen in self._seen.items() for job in seen.jobs
        }
        for sample in space.scrapes:
            part = Part.of(sample.labels)
            if part in self._seen or part in self._others or part.pod in pods:
                continue
            if (
                self._selects(sample)
                or (_workload(part), sample.labels.get("job", "")) in workloads
            ):
                yield part

    def _selects(self, scrape: Sample) -> bool:
        """Whether the trigger's selector is about scrapes, and selects this one.

        Labels that only an engine's own series have say nothing about what is scraped.
        """
        labels, matchers = scrape.labels, self._trigger.selector
        return bool(matchers) and all(_applies(matcher, labels) for matcher in matchers)

    def _answer(
        self, part: Part, samples: Sequence[Sample], space: Space, now: float, *, is_young: bool
    ) -> list[Sample] | str | None:
        """Give a part's samples, or why there are none; None: the part does not exist any more."""
        seen, jobs = self._seen[part], space.jobs.get(part)
        if jobs is None:
            if seen.scraped:
                return self._why_unscraped(seen, space, now, is_young=is_young)
            if not samples:
                return None
            if replica_of(part) == UNNAMED:
                return f"{_first_name(samples)} has neither a pod nor an instance label"
            return f"no up series has the pod, instance and job of {_first_name(samples)}"
        seen.scraped, seen.up, seen.jobs = True, any(jobs.values()), frozenset(jobs)
        seen.is_lost = seen.is_gone = False
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
        return self._silence(jobs)

    def _why_unscraped(
        self, seen: _Seen, space: Space, now: float, *, is_young: bool
    ) -> str | None:
        """Say why a part has no `up` any more; None: it is gone."""
        if seen.is_gone:
            return None
        if is_young:
            seen.is_lost = True
            return "this Prometheus has not scraped it yet"
        ran_out = seen.is_lost or (seen.up and now - seen.told_at > EXPIRED_SECONDS)
        if ran_out and all(seen.jobs.isdisjoint(jobs) for jobs in space.jobs.values()):
            return "its scrapes ended, and Prometheus does not know it to be gone"
        seen.is_gone = True
        return None

    def _silence(self, jobs: Mapping[str, bool]) -> str:
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


def _applies(matcher: Matcher, labels: Mapping[str, str]) -> bool:
    return matcher.name in labels and matcher.matches(labels)


def _workload(part: Part) -> str:
    """Give the name that all pods of a workload share, else the address itself."""
    return _GENERATED.sub("", part.pod) if part.pod else part.instance


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

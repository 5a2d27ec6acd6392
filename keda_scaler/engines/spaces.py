"""Spaces: the samples of many namespaces, which came in one answer, told apart. Pure.

Rules
1. A sample belongs to the namespace that its label names, and to no other. One of a namespace that
   nobody asked for belongs nowhere, whoever sent it.
2. What several targets of a namespace look for is found once, while samples are added: a space is
   as cheap to look at as what is found in it, however many targets share it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from typing import NamedTuple, Self

from keda_scaler import engines
from keda_scaler.core.matchers import Matcher
from keda_scaler.engines import devices
from keda_scaler.engines.devices import DeviceReadings
from keda_scaler.engines.samples import Sample

_NO_LABEL = ""
"""Stands for the model of engines that do not name theirs: they are of every model."""


class Part(NamedTuple):
    """One scraped address of a replica."""

    pod: str
    """Empty where Prometheus has no such label."""

    instance: str
    """Empty where Prometheus has no such label."""

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> Self:
        """Tell whose series this is."""
        return cls(labels.get("pod", ""), labels.get("instance", ""))


class Space:
    """What one poll found of one namespace."""

    def __init__(self, namespace: str, engine_names: Iterable[str]) -> None:
        """`engine_names` are those that triggers of the namespace name, as they spell them."""
        self.parts: dict[Part, list[Sample]] = {}
        """The engines' samples, by what they were scraped from."""

        self.jobs: defaultdict[Part, dict[str, bool]] = defaultdict(dict)
        """The jobs that scrape a part, and whether the last scrape of each went well."""

        self.scrapes: list[Sample] = []
        """The samples of `up` themselves."""

        self.scrape_times: list[Sample] = []
        """When each of them was taken, by the clock of Prometheus; only where that was asked."""

        self._namespace = namespace
        self._engine_names = tuple(engine_names)
        self._concerned: defaultdict[tuple[str, str | None], dict[Part, None]] = defaultdict(dict)
        """Parts by the engine that a trigger may name, and by model; None: of any."""
        self._devices: list[Sample] = []
        self._selected: dict[tuple[Matcher, ...], Space] = {}
        self._by_label: dict[str, defaultdict[str, list[Sample]]] = {}

    def add(self, sample: Sample) -> None:
        """Take a sample of an engine in."""
        part = Part.of(sample.labels)
        self.parts.setdefault(part, []).append(sample)
        for engine in self._engine_names:
            for dialect in engines.shown(sample, engine):
                label = dialect.model_label
                model = _NO_LABEL if label is None else sample.labels.get(label, _NO_LABEL)
                self._concerned[engine, model][part] = None
                self._concerned[engine, None][part] = None

    def add_device(self, sample: Sample) -> None:
        """Take a sample of a GPU exporter in."""
        self._devices.append(sample)

    def add_scrape(self, sample: Sample) -> None:
        """Take a sample of `up` in."""
        self.scrapes.append(sample)
        known = self.jobs[Part.of(sample.labels)]
        job = sample.labels.get("job", "")
        known[job] = sample.number == 1 or known.get(job, False)

    def add_scrape_time(self, sample: Sample) -> None:
        """Take a sample of `timestamp(up)` in."""
        self.scrape_times.append(sample)

    @cached_property
    def gpus(self) -> Mapping[str, DeviceReadings]:
        """What exporters say of the GPUs of each pod."""
        return devices.by_pod(self._devices, self._namespace)

    def concerned(self, engine: str, model: str | None) -> Collection[Part]:
        """Give the parts that show the engine and serve the model; None: any model."""
        found = self._concerned.get((engine, model), {})
        if model is None:
            return found
        return found.keys() | self._concerned.get((engine, _NO_LABEL), {}).keys()

    def selected(self, matchers: tuple[Matcher, ...]) -> "Space":
        """Give what is left when only engines' samples that meet the conditions are looked at."""
        if not matchers:
            return self
        found = self._selected.get(matchers)
        if found is None:
            found = self._selected[matchers] = Space(self._namespace, self._engine_names)
            found.jobs, found._devices = self.jobs, self._devices
            for sample in self._candidates(matchers):
                if all(matcher.matches(sample.labels) for matcher in matchers):
                    found.add(sample)
        return found

    def _candidates(self, matchers: tuple[Matcher, ...]) -> Iterable[Sample]:
        """Give the samples among which those that meet the conditions are."""
        exact = next((each for each in matchers if each.operator == "=" and each.value), None)
        if exact is None:
            return (sample for samples in self.parts.values() for sample in samples)
        index = self._by_label.get(exact.name)
        if index is None:
            index = self._by_label[exact.name] = defaultdict(list)
            for samples in self.parts.values():
                for sample in samples:
                    index[sample.labels.get(exact.name, "")].append(sample)
        return index.get(exact.value, ())


def namespace_of(sample: Sample) -> str:
    """Tell the namespace of a series; empty: it has none."""
    return sample.labels.get("namespace", "")


def sort(
    samples: Iterable[Sample],
    spaces: Mapping[str, Space],
    add: Callable[[Space, Sample], None] = Space.add,
    whose: Callable[[Sample], str] = namespace_of,
) -> None:
    """Put every sample into the space of its namespace, if there is one, and into no other."""
    for sample in samples:
        space = spaces.get(whose(sample))
        if space is not None:
            add(space, sample)

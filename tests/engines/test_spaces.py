"""Series of many namespaces, told apart."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from keda_scaler import engines
from keda_scaler.core.matchers import Matcher
from keda_scaler.core.readings import Value
from keda_scaler.engines.devices import namespace_of as namespace_of_gpu
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Part, Space, sort

NAMESPACES = ("a", "b", "a|b", "", "A")
ENGINES = ("auto", "vllm", "triton")
WAITING = "vllm:num_requests_waiting"

labels = st.fixed_dictionaries(
    {},
    optional={
        "namespace": st.sampled_from(NAMESPACES),
        "exported_namespace": st.sampled_from(NAMESPACES),
        "pod": st.sampled_from(("p0", "p1", "")),
        "instance": st.sampled_from(("i0", "i1")),
        "model_name": st.sampled_from(("llama", "qwen")),
        "job": st.sampled_from(("x", "y")),
    },
)
samples = st.lists(
    st.builds(
        Sample,
        st.sampled_from((WAITING, "vllm:num_requests_running", "nv_inference_count", "other")),
        labels,
        st.floats(0, 9),
        st.just(1.0),
    ),
    max_size=30,
)


def space_of(found: Sequence[Sample], *engine_names: str) -> Space:
    space = Space("a", engine_names or ENGINES)
    for sample in found:
        space.add(sample)
    return space


def all_of(space: Space) -> list[Sample]:
    return [sample for several in space.parts.values() for sample in several]


@given(samples, st.sets(st.sampled_from(NAMESPACES)))
def test_no_sample_is_ever_in_another_namespace(found: list[Sample], namespaces: set[str]) -> None:
    """Each is in that of its label, once, if it was asked for; and in no other."""
    spaces = {namespace: Space(namespace, ENGINES) for namespace in namespaces}

    sort(found, spaces)

    for namespace, space in spaces.items():
        expected = [s for s in found if s.labels.get("namespace", "") == namespace]
        assert sorted(map(id, all_of(space))) == sorted(map(id, expected))


@given(samples, st.sets(st.sampled_from(NAMESPACES)))
def test_gpus_are_sorted_by_the_namespace_of_their_pod(
    found: list[Sample], namespaces: set[str]
) -> None:
    """Which is not the exporter's own."""
    spaces = {namespace: Space(namespace, ()) for namespace in namespaces}

    sort(found, spaces, Space.add_device, namespace_of_gpu)

    for namespace, space in spaces.items():
        assert space._devices == [s for s in found if namespace_of_gpu(s) == namespace]


@given(samples, st.sampled_from(ENGINES), st.sampled_from((None, "llama", "qwen", "none")))
def test_what_is_indexed_is_what_looking_at_each_sample_finds(
    found: list[Sample], engine: str, model: str | None
) -> None:
    """Of engines that name their model, and of those that do not."""
    expected = {Part.of(s.labels) for s in found if engines.concerns(s, engine, model)}

    assert set(space_of(found).concerned(engine, model)) == expected


@given(
    samples,
    st.lists(
        st.builds(
            Matcher,
            st.sampled_from(("job", "pod", "absent")),
            st.sampled_from(("=", "!=", "=~", "!~")),
            st.sampled_from(("x", "", "p0", "p.|y")),
        ),
        max_size=3,
    ),
)
def test_a_selector_leaves_what_meets_all_conditions(
    found: list[Sample], matchers: list[Matcher]
) -> None:
    """Whether or not one of them can be looked up."""
    space = space_of(found)
    expected = [s for s in found if all(each.matches(s.labels) for each in matchers)]

    selected = space.selected(tuple(matchers))

    assert sorted(map(id, all_of(selected))) == sorted(map(id, expected))
    assert space.selected(tuple(matchers)) is selected
    for sample in expected:
        assert Part.of(sample.labels) in selected.parts


def test_selectors_of_many_targets_are_looked_up() -> None:
    """A namespace with a hundred targets is not gone through a hundred times."""
    found = [Sample(WAITING, {"job": job}, 1.0, 1.0) for job in "xyx"]
    space = space_of(found)

    assert all_of(space.selected((Matcher("job", "=", "x"),))) == [found[0], found[2]]
    assert all_of(space.selected((Matcher("job", "=", "y"),))) == [found[1]]
    assert all_of(space.selected((Matcher("job", "=", "z"),))) == []


def test_a_selector_concerns_engines_alone() -> None:
    """Scrape targets and GPUs are those of the namespace."""
    pod = {"namespace": "a", "pod": "p0", "instance": "i0"}
    space = space_of([])
    space.add_scrape(Sample("up", pod | {"job": "x"}, 1.0, 1.0))
    for kind, number in (("USED", 1.0), ("FREE", 3.0)):
        space.add_device(Sample(f"DCGM_FI_DEV_FB_{kind}", pod | {"UUID": "1"}, number, 1.0))

    selected = space.selected((Matcher("job", "=", "y"),))

    assert selected.jobs == {Part("p0", "i0"): {"x": True}}
    assert selected.gpus["p0"].memory == Value(0.25, 1.0)


def test_a_job_that_scrapes_twice_succeeds_if_one_does() -> None:
    """Two series of `up` may differ in labels that do not matter here."""
    space = space_of([])
    for number in (0.0, 1.0, 0.0):
        space.add_scrape(Sample("up", {"job": "x"}, number, 1.0))
    space.add_scrape(Sample("up", {"job": "y"}, 0.0, 1.0))

    assert space.jobs == {Part("", ""): {"x": True, "y": False}}


@given(st.sets(st.sampled_from(("auto", "vllm", "nim", "dynamo", "sglang", "tgi")), min_size=1))
def test_batches_have_every_name_once(names: set[str]) -> None:
    """A series that came twice would count for nothing."""
    gauges, latencies = engines.batches(frozenset(names), frozenset(names))
    all_names = [name for batch in (*gauges, *latencies) for name in batch]

    assert len(set(all_names)) == len(all_names)
    assert set(all_names) == set().union(*(engines.names(name) for name in names))
    assert set().union(*gauges) == set().union(
        *(engines.names(name, latencies=False) for name in names)
    )
    assert engines.batches(frozenset(names), frozenset()) == (gauges, ())

"""The namespaces' watches, against a simulated API server over real HTTP."""

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from keda_scaler.core.readings import Missing, Replica
from keda_scaler.sim.kubernetes import Fault, SimulatedCluster, SimulatedEndpoint
from keda_scaler.sources import apiserver
from keda_scaler.sources.kubernetes import (
    MIN_WATCH_SECONDS,
    Endpoint,
    Listing,
    NamespaceView,
    ServiceDirectory,
    Timings,
    at_url,
)

Build = Callable[..., ServiceDirectory]
Asked = Listing | Missing

GPU_0 = SimulatedEndpoint("10.0.0.1", "gpu-0")
GPU_1 = SimulatedEndpoint("10.0.0.2", "gpu-1")


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def quick(**changes: Any) -> Timings:
    """Build timings that let a test of retries take some hundredths of a second."""
    timings = {"answer": 2.0, "page": 2.0, "watch": 30.0, "grace": 2.0, "settled": 0.05}
    return Timings(**{**timings, "first_retry": 0.02, "longest_retry": 0.05, **changes})


@pytest.fixture
async def cluster() -> AsyncIterator[SimulatedCluster]:
    """Give an API server with nothing in it, and the client at hand: importing it takes a while."""
    await asyncio.to_thread(importlib.import_module, "kubernetes_asyncio.client")
    async with SimulatedCluster() as cluster:
        yield cluster


@pytest.fixture
async def build(cluster: SimulatedCluster) -> AsyncIterator[Build]:
    """Give a way to build directories that are closed at the end."""
    built = []

    def build(**options: Any) -> ServiceDirectory:
        given = {"configure": at_url(cluster.url), "timings": quick(), **options}
        built.append(ServiceDirectory(**given))
        return built[-1]

    yield build
    for directory in built:
        await directory.aclose()


async def until(
    view: NamespaceView, holds: Callable[[Asked], bool], service: str = "llama"
) -> Asked:
    """Wait until the answer about a Service is as it should be, and return it."""
    async with asyncio.timeout(5):
        while not holds(asked := view.endpoints(service, None, "/metrics")):
            await view.changed(5)
    return asked


async def listed(view: NamespaceView, *names: str) -> Listing:
    """Wait until exactly these replicas are listed."""
    asked = await until(view, lambda asked: isinstance(asked, Listing) and names == names_of(asked))
    assert isinstance(asked, Listing)
    return asked


async def confirmed(view: NamespaceView, at: float) -> Listing:
    """Wait until what is listed is confirmed as of then: that alone is not told."""
    async with asyncio.timeout(5):
        while (asked := view.endpoints("llama", None, "/metrics")) is not None:
            if isinstance(asked, Listing) and asked.at == at:
                return asked
            await view.changed(0.01)
    raise AssertionError


async def missing(view: NamespaceView, reason: str) -> None:
    """Wait until nothing is known, for this reason."""
    await until(view, lambda asked: asked == Missing(reason))


async def happens(cluster: SimulatedCluster, holds: Callable[[], bool]) -> None:
    """Wait until something holds of the cluster."""
    async with asyncio.timeout(5):
        await cluster.until(holds)


def names_of(listing: Listing) -> tuple[str, ...]:
    """Name the replicas of a listing."""
    return tuple(endpoint.replica.name for endpoint in listing.endpoints)


async def test_lists_the_endpoints_of_a_service(cluster: SimulatedCluster, build: Build) -> None:
    """A Service's endpoints are listed with their pod's name and the URL of their page."""
    cluster.put_service("models", "llama", [GPU_1, GPU_0])
    cluster.put_service("models", "other", [SimulatedEndpoint("10.0.0.9", "other-0")])
    cluster.put_service("elsewhere", "llama", [SimulatedEndpoint("10.0.0.8", "theirs")])

    async with build().follow("models") as view:
        listing = await listed(view, "gpu-0", "gpu-1")

    assert listing.endpoints == (
        Endpoint(Replica("gpu-0"), "http://10.0.0.1:8000/metrics"),
        Endpoint(Replica("gpu-1"), "http://10.0.0.2:8000/metrics"),
    )


async def test_knows_nothing_before_the_first_list(build: Build) -> None:
    """Following needs no answer to begin with, and claims nothing until there is one."""
    async with build().follow("models") as view:
        asked = view.endpoints("llama", None, "/metrics")

    assert asked == Missing("EndpointSlices of namespace models not listed yet")


async def test_follows_what_is_added_changed_and_removed(
    cluster: SimulatedCluster, build: Build
) -> None:
    """Changes arrive by the watch: no second list is needed."""
    cluster.put_service("models", "llama", [GPU_0])

    async with build().follow("models") as view:
        await listed(view, "gpu-0")
        cluster.put_service("models", "llama", [GPU_0, GPU_1])
        await listed(view, "gpu-0", "gpu-1")
        cluster.put_service("models", "llama", [GPU_1])
        await listed(view, "gpu-1")
        cluster.put_service("models", "llama", [])
        await listed(view)
        cluster.delete_service("models", "llama")
        await missing(view, "no EndpointSlice of Service llama: does it exist?")

    assert list(cluster.requests) == ["list", "watch"]


async def test_tells_ready_serving_and_terminating_apart(
    cluster: SimulatedCluster, build: Build
) -> None:
    """Whoever may still serve is listed; who is gone but for its name is not."""
    cluster.put_service(
        "models",
        "llama",
        [
            SimulatedEndpoint("10.0.0.1", "a-unset", ready=None),
            SimulatedEndpoint("10.0.0.2", "b-loads", ready=False, serving=False),
            SimulatedEndpoint("10.0.0.3", "c-drains", ready=False, serving=True, terminating=True),
            SimulatedEndpoint("10.0.0.4", "d-gone", ready=False, serving=False, terminating=True),
            SimulatedEndpoint("10.0.0.5", "e-gone", ready=False, terminating=True),
        ],
    )

    async with build().follow("models") as view:
        listing = await listed(view, "a-unset", "b-loads", "c-drains")

    assert [endpoint.replica for endpoint in listing.endpoints] == [
        Replica("a-unset", ready=True),
        Replica("b-loads", ready=False),
        Replica("c-drains", ready=False, terminating=True),
    ]


async def test_counts_a_pod_of_two_address_families_once(
    cluster: SimulatedCluster, build: Build
) -> None:
    """A dual-stack pod is one replica, read over IPv4; an IPv6 address alone is put in brackets."""
    cluster.put_service(
        "models",
        "llama",
        [
            SimulatedEndpoint("fd00::1", "gpu-0"),
            GPU_0,
            SimulatedEndpoint("fd00::2", "gpu-1"),
        ],
    )

    async with build().follow("models") as view:
        listing = await listed(view, "gpu-0", "gpu-1")

    assert [endpoint.url for endpoint in listing.endpoints] == [
        "http://10.0.0.1:8000/metrics",
        "http://[fd00::2]:8000/metrics",
    ]


async def test_list_stands_and_ages_while_nothing_confirms_it(
    cluster: SimulatedCluster, build: Build
) -> None:
    """A list is confirmed by events and bookmarks; a connection that is only open is none."""
    clock = Clock()
    cluster.put_service("models", "llama", [GPU_0])

    async with build(clock=clock).follow("models") as view:
        await listed(view, "gpu-0")
        await happens(cluster, lambda: cluster.open_watches == 1)
        clock.now = 150.0
        cluster.put_service("models", "llama", [GPU_0, GPU_1])
        by_event = await listed(view, "gpu-0", "gpu-1")
        clock.now = 200.0
        silent = await listed(view, "gpu-0", "gpu-1")
        cluster.bookmark()
        by_bookmark = await confirmed(view, 200.0)
        cluster.fail(Fault(status=503))
        cluster.drop_watches()
        await happens(cluster, lambda: len(cluster.requests) > 3)
        clock.now = 260.0
        down = await listed(view, "gpu-0", "gpu-1")
        cluster.heal()
        cluster.put_service("models", "llama", [GPU_1])
        again = await listed(view, "gpu-1")

    assert (by_event.at, silent.at, by_bookmark.at) == (150.0, 150.0, 200.0)
    assert (down.at, again.at) == (200.0, 260.0)


async def test_resumes_a_dropped_watch_without_a_list(
    cluster: SimulatedCluster, build: Build
) -> None:
    """A lost connection costs no list, loses no change, and is not worth a warning."""
    cluster.put_service("models", "llama", [GPU_0])

    with structlog.testing.capture_logs() as logs:
        async with build().follow("models") as view:
            await happens(cluster, lambda: cluster.open_watches == 1)
            cluster.drop_watches()
            cluster.put_service("models", "llama", [GPU_0, GPU_1])
            await listed(view, "gpu-0", "gpu-1")

    assert list(cluster.requests) == ["list", "watch", "watch"]
    assert logs == []


async def test_takes_over_from_a_watch_that_ends_as_agreed(
    cluster: SimulatedCluster, build: Build
) -> None:
    """The next watch goes on from the bookmark that ended the one before, compacted or not."""
    cluster.put_service("models", "llama", [GPU_0])

    with structlog.testing.capture_logs() as logs:
        async with build(timings=quick(watch=0.5)).follow("models") as view:
            await happens(cluster, lambda: cluster.open_watches == 1)
            cluster.compact()
            await happens(cluster, lambda: list(cluster.requests) == ["list", "watch", "watch"])
            cluster.put_service("models", "llama", [GPU_1])
            await listed(view, "gpu-1")

    assert list(cluster.requests) == ["list", "watch", "watch"]
    assert logs == []


async def test_a_watch_that_ends_as_agreed_confirms_the_list(
    cluster: SimulatedCluster, build: Build
) -> None:
    """The server says up to then what there is, also where nothing ever changes."""
    clock = Clock()
    cluster.put_service("models", "llama", [GPU_0])

    async with build(clock=clock, timings=quick(watch=0.3)).follow("models") as view:
        await listed(view, "gpu-0")
        await happens(cluster, lambda: cluster.open_watches == 1)
        clock.now = 130.0
        await confirmed(view, 130.0)

    assert cluster.requests.count("list") == 1


async def test_a_watch_that_is_ended_early_confirms_nothing(
    cluster: SimulatedCluster, build: Build
) -> None:
    """A proxy may have ended it, whose server is gone."""
    clock = Clock()
    cluster.put_service("models", "llama", [GPU_0])
    cluster.fail(Fault(garbage=b"", only="watch"))

    timings = quick(settled=0.0)
    async with build(clock=clock, timings=timings).follow("models") as view:
        await listed(view, "gpu-0")
        clock.now = 130.0
        await happens(cluster, lambda: cluster.requests.count("watch") > 3)
        listing = await listed(view, "gpu-0")

    assert listing.at == 100.0


async def test_a_half_open_watch_confirms_nothing_and_is_given_up(
    cluster: SimulatedCluster, build: Build
) -> None:
    """Neither that it was opened nor that it does not end says that anything is as it was."""
    clock = Clock()
    cluster.put_service("models", "llama", [GPU_0])
    cluster.fail(Fault(is_silent=True, only="watch"))

    timings = quick(watch=0.1, grace=1.0)
    async with build(clock=clock, timings=timings).follow("models") as view:
        await listed(view, "gpu-0")
        clock.now = 130.0
        await happens(cluster, lambda: len(cluster.requests) > 2)
        silent = await listed(view, "gpu-0")
        cluster.heal()
        await confirmed(view, 130.0)

    assert silent.at == 100.0
    assert cluster.requests.count("list") == 1


async def test_watches_end_within_a_third_of_what_is_stale() -> None:
    """For the follower that is least patient, give or take; of very many namespaces all longer."""
    built = ServiceDirectory(configure=at_url("http://127.0.0.1:1"), timings=Timings())
    async with built.follow("models", 30) as first, built.follow("models", 15):
        shared = first._shared
        assert all(4.0 <= shared._watch_seconds() <= 5.0 for _ in range(20))
        async with built.follow("models", 3):
            assert shared._watch_seconds() == MIN_WATCH_SECONDS
        async with built.follow("models"):
            assert shared._watch_seconds() >= 4.0
        built._namespaces |= {f"{number}": shared for number in range(1_499)}
        assert shared._watch_seconds() == 15.0
        built._namespaces = {"models": shared}
    await built.aclose()


@pytest.mark.parametrize(
    "fault", [Fault(status=410, only="watch"), Fault(is_gone_late=True, only="watch")]
)
async def test_lists_anew_when_the_version_is_gone(
    cluster: SimulatedCluster, build: Build, fault: Fault
) -> None:
    """A compacted version, told either way, is answered with a list at once, without a wait."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    cluster.put_service("models", "llama", [GPU_0])
    cluster.fail(fault, times=1)

    async with build(timings=quick(sleep=sleep)).follow("models") as view:
        await listed(view, "gpu-0")
        await happens(cluster, lambda: cluster.open_watches == 1)

    assert list(cluster.requests) == ["list", "watch", "list", "watch"]
    assert waits == []


async def test_lists_anew_after_missing_compacted_changes(
    cluster: SimulatedCluster, build: Build
) -> None:
    """What was removed while nobody watched, and was then compacted, is not kept."""
    cluster.put_service("models", "llama", [GPU_0])

    async with build().follow("models") as view:
        await happens(cluster, lambda: cluster.open_watches == 1)
        cluster.drop_watches()
        cluster.put_service("models", "llama", [GPU_1])
        cluster.compact()
        await listed(view, "gpu-1")

    assert list(cluster.requests)[:4] == ["list", "watch", "watch", "list"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=410, only="watch"),
        Fault(is_gone_late=True, only="watch"),
        Fault(garbage=b"", only="watch"),
        Fault(garbage=b"", only="list"),
    ],
)
async def test_never_storms_the_server(
    cluster: SimulatedCluster, build: Build, fault: Fault
) -> None:
    """A server that ends everything at once is asked again only after growing waits."""
    longest, waits, enough = 8.0, list[float](), asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 40:
            enough.set()
            await asyncio.Event().wait()

    cluster.fail(fault)

    timings = quick(sleep=sleep, first_retry=0.5, longest_retry=longest, settled=30.0)
    async with build(timings=timings).follow("models"), asyncio.timeout(5):
        await enough.wait()

    assert len(cluster.requests) <= 2 * len(waits) + 4
    assert waits[0] <= 1.0
    assert 1.0 < max(waits) <= longest


async def test_waits_as_long_as_it_is_asked_to(cluster: SimulatedCluster, build: Build) -> None:
    """Retry-After is honoured, up to a minute."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    cluster.put_service("models", "llama", [GPU_0])
    cluster.fail(Fault(status=429, retry_after=7), times=1)
    cluster.fail(Fault(status=503, retry_after=3600), times=1)

    async with build(timings=quick(sleep=sleep)).follow("models") as view:
        await listed(view, "gpu-0")

    assert 7.0 <= waits[0] <= 7.1
    assert 60.0 <= waits[1] <= 60.1


async def test_a_throttled_watch_goes_on_without_a_list(
    cluster: SimulatedCluster, build: Build
) -> None:
    """A 429 says nothing of the version: the watch is tried again from there."""
    cluster.fail(Fault(status=429, retry_after=0, only="watch"), times=2)

    async with build().follow("models"):
        await happens(cluster, lambda: cluster.open_watches == 1)

    assert list(cluster.requests) == ["list", "watch", "watch", "watch"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=401), "not allowed to list EndpointSlices in namespace models (RBAC)"),
        (Fault(status=403), "not allowed to list EndpointSlices in namespace models (RBAC)"),
        (Fault(status=500), "the Kubernetes API server answers 500 to list EndpointSlices"),
        (Fault(hangs=True), "cannot reach the Kubernetes API server (TimeoutError)"),
        (Fault(garbage=b"<p>"), "an answer of the Kubernetes API server is not understood"),
        (Fault(garbage=b"[]"), "an answer of the Kubernetes API server is not understood"),
        (Fault(garbage=b"{}"), "an answer of the Kubernetes API server is not understood"),
    ],
)
async def test_says_why_nothing_is_listed_and_recovers(
    cluster: SimulatedCluster, build: Build, fault: Fault, reason: str
) -> None:
    """A failure before the first list is the answer; log lines mark its begin and its end only."""
    cluster.put_service("models", "llama", [GPU_0])
    cluster.fail(fault)

    with structlog.testing.capture_logs() as logs:
        timings = quick(answer=0.3) if fault.hangs else quick()
        async with build(timings=timings).follow("models") as view:
            await missing(view, reason)
            await happens(cluster, lambda: len(cluster.requests) > 3)
            cluster.heal()
            await listed(view, "gpu-0")
            async with asyncio.timeout(5):
                while len(logs) < 2:  # until the watch has held for a while
                    await view.changed(5)

    assert [(log["log_level"], log["event"]) for log in logs] == [
        ("warning", "endpoint slices cannot be read"),
        ("info", "endpoint slices are read again"),
    ]
    assert logs[0]["reason"] == reason
    assert "stale" in logs[0]["consequence"]


@pytest.mark.parametrize("garbage", [b"{]\n", b'{"type":"NEW","object":{}}\n', b"[]\n", b"\xff\n"])
async def test_garbage_in_a_watch_leads_to_a_list(
    cluster: SimulatedCluster, build: Build, garbage: bytes
) -> None:
    """After a line that is not understood nothing is assumed."""
    cluster.fail(Fault(garbage=garbage, only="watch"), times=1)

    async with build().follow("models"):
        await happens(cluster, lambda: cluster.open_watches == 1)

    assert list(cluster.requests) == ["list", "watch", "list", "watch"]


async def test_says_that_the_server_cannot_be_reached(build: Build) -> None:
    """The reason names the kind of error and no address."""
    directory = build(configure=at_url("http://127.0.0.1:1"))

    async with directory.follow("models") as view:
        await missing(view, "cannot reach the Kubernetes API server (ClientConnectorError)")


async def test_asks_for_new_credentials_when_refused(
    cluster: SimulatedCluster, build: Build
) -> None:
    """After 401 the client is configured anew: a kubeconfig's token may have expired."""
    configured = 0

    async def configure() -> Any:
        nonlocal configured
        configured += 1
        return await at_url(cluster.url)()

    cluster.put_service("models", "llama", [GPU_0])
    cluster.fail(Fault(status=401), times=3)

    async with build(configure=configure).follow("models") as view:
        await listed(view, "gpu-0")

    assert configured == 4


async def test_an_unexpected_error_does_not_end_the_watch(
    cluster: SimulatedCluster, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong inside is logged with its traceback, and tried again."""
    errors = [RuntimeError("surprise")]

    def parse(raw: Any) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr("keda_scaler.sources.kubernetes.parse_slice", parse)
    cluster.put_service("models", "llama", [GPU_0])

    with structlog.testing.capture_logs() as logs:
        async with build().follow("models") as view:
            await missing(view, "unexpected RuntimeError in reading EndpointSlices")
            await happens(cluster, lambda: cluster.open_watches == 1)

    assert isinstance(logs[0]["exc_info"], RuntimeError)


async def test_reads_large_slices(cluster: SimulatedCluster, build: Build) -> None:
    """A slice may be far larger than a stream's usual limit of 64 KiB a line."""
    endpoints = [SimulatedEndpoint(f"10.1.{n // 250}.{n % 250}", f"gpu-{n:04}") for n in range(999)]

    async with build().follow("models") as view:
        await happens(cluster, lambda: cluster.open_watches == 1)
        cluster.put_service("models", "llama", endpoints)
        await listed(view, *(endpoint.name or "" for endpoint in endpoints))

    assert len(json.dumps([endpoint.to_json() for endpoint in endpoints])) > 64 * 1024


async def test_reads_a_list_in_pages(cluster: SimulatedCluster, build: Build) -> None:
    """Large namespaces are listed a hundred slices at a time."""
    for n in range(201):
        cluster.put_service("models", f"llama-{n}", [GPU_0])

    async with build().follow("models") as view:
        await happens(cluster, lambda: cluster.open_watches == 1)
        found = [view.endpoints(f"llama-{n}", None, "/metrics") for n in range(201)]

    assert all(isinstance(asked, Listing) for asked in found)
    assert list(cluster.requests) == ["list", "list", "list", "watch"]


async def test_starts_a_list_over_when_its_next_page_is_gone(
    cluster: SimulatedCluster, build: Build
) -> None:
    """Half a list is never taken for a whole one."""
    for n in range(101):
        cluster.put_service("models", f"llama-{n}", [GPU_0])

    async with build().follow("models"):
        await happens(cluster, lambda: len(cluster.requests) == 1)
        cluster.fail(Fault(status=410, only="list"), times=1)
        await happens(cluster, lambda: cluster.open_watches == 1)

    assert list(cluster.requests) == ["list", "list", "list", "list", "watch"]


async def test_refuses_a_namespace_of_too_many_slices(
    cluster: SimulatedCluster, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded: beyond the cap nothing is known, and the reason names the cap."""
    monkeypatch.setattr("keda_scaler.sources.slices.MAX_SLICES", 3)
    for n in range(4):
        cluster.put_service("models", f"llama-{n}", [GPU_0])

    async with build().follow("models") as view:
        await missing(view, "the namespace has more than 3 EndpointSlices")


async def test_refuses_a_page_that_is_too_large(
    cluster: SimulatedCluster, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer is not read beyond its cap."""
    monkeypatch.setattr(apiserver, "_PAGE_BYTES", 10_000)
    cluster.fail(Fault(garbage=b" " * 10_001), times=1)
    cluster.put_service("models", "llama", [GPU_0])

    async with build(timings=quick(first_retry=0.5, longest_retry=0.5)).follow("models") as view:
        await missing(view, "a list of EndpointSlices is too large")
        await listed(view, "gpu-0")


async def test_refuses_a_watch_event_that_is_too_large(
    cluster: SimulatedCluster, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line without an end is given up at its cap, and the list made anew."""
    monkeypatch.setattr(apiserver, "_LINE_BYTES", 10_000)
    cluster.fail(Fault(garbage=b" " * 10_001, only="watch"), times=1)

    with structlog.testing.capture_logs() as logs:
        async with build().follow("models"):
            await happens(cluster, lambda: cluster.open_watches == 1)

    assert logs[0]["reason"] == "a watch event of EndpointSlices is too large"
    assert list(cluster.requests) == ["list", "watch", "list", "watch"]


async def test_followers_share_one_watch(cluster: SimulatedCluster, build: Build) -> None:
    """However many follow a namespace, it is listed and watched once, until the last one leaves."""
    cluster.put_service("models", "llama", [GPU_0])
    directory = build()

    async with directory.follow("models") as first:
        async with directory.follow("models") as second:
            await listed(first, "gpu-0")
            await listed(second, "gpu-0")
        await happens(cluster, lambda: cluster.open_watches == 1)
        cluster.put_service("models", "llama", [GPU_1])
        await listed(first, "gpu-1")
    await happens(cluster, lambda: cluster.open_watches == 0)

    assert list(cluster.requests) == ["list", "watch"]
    assert not [task for task in asyncio.all_tasks() if "endpoint slices" in task.get_name()]
    async with directory.follow("models") as again:
        await listed(again, "gpu-1")


async def test_namespaces_are_apart(cluster: SimulatedCluster, build: Build) -> None:
    """Each namespace in use has its own watch, and what fails in one does not harm another."""
    cluster.put_service("models", "llama", [GPU_0])
    cluster.put_service("others", "llama", [GPU_1])
    directory = build()

    async with directory.follow("models") as models, directory.follow("others") as others:
        await listed(models, "gpu-0")
        await listed(others, "gpu-1")
        await happens(cluster, lambda: cluster.open_watches == 2)


async def test_closing_ends_every_watch(cluster: SimulatedCluster, build: Build) -> None:
    """A closed directory leaves no task and no connection, even while it is followed."""
    cluster.put_service("models", "llama", [GPU_0])
    directory = build()

    async with directory.follow("models") as view:
        await listed(view, "gpu-0")
        await happens(cluster, lambda: cluster.open_watches == 1)
        await directory.aclose()
        await happens(cluster, lambda: cluster.open_watches == 0)

    assert not [task for task in asyncio.all_tasks() if "endpoint slices" in task.get_name()]


async def test_every_view_hears_of_every_change(cluster: SimulatedCluster, build: Build) -> None:
    """A change between two waits is not lost, and a wait without one ends in time."""
    directory = build()

    async with directory.follow("models") as view:
        await until(view, lambda asked: "does it exist" in getattr(asked, "reason", ""))
        await happens(cluster, lambda: cluster.open_watches == 1)
        async with directory.follow("models") as other:
            cluster.put_service("models", "llama", [GPU_0])
            await listed(other, "gpu-0")
        async with asyncio.timeout(1):
            await view.changed(60)
        await view.changed(0.01)

    assert list(cluster.requests) == ["list", "watch"]


@pytest.mark.blocks("the kubeconfig is read in a worker thread that has a loop of its own")
async def test_reads_the_kubeconfig(
    cluster: SimulatedCluster, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside a cluster, KUBECONFIG says where the API server is."""
    kubeconfig = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here"}}],
        "clusters": [{"name": "here", "cluster": {"server": cluster.url}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    cluster.put_service("models", "llama", [GPU_0])

    async with build(configure=None).follow("models") as view:
        await listed(view, "gpu-0")


@pytest.mark.blocks("the kubeconfig is read in a worker thread that has a loop of its own")
async def test_says_that_there_is_no_configuration(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in a cluster nor with a kubeconfig, the reason says so."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    async with build(configure=None).follow("models") as view:
        await missing(view, "no usable Kubernetes configuration (ConfigException)")


def test_prefers_the_service_account_of_its_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster the pod's own account is used, whatever the kubeconfig says."""
    (tmp_path / "token").write_text("secret")
    (tmp_path / "ca.crt").write_text("an authority")
    monkeypatch.setattr(apiserver, "_SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))

    configuration = apiserver._configuration()

    assert configuration.host == "https://[fd00::1]:443"
    assert configuration.ssl_ca_cert == str(tmp_path / "ca.crt")
    assert configuration.api_key == {"BearerToken": "Bearer secret"}


def test_imports_the_client_only_when_used() -> None:
    """Who names no Service does not pay for the Kubernetes client."""
    check = "import sys, keda_scaler.sources.kubernetes; print('kubernetes_asyncio' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=True, text=True)

    assert done.stdout == "False\n"


def run_prepare(**surroundings: str) -> str:
    """Prepare a directory in a process of its own; say whether the client is there then."""
    check = (
        "import asyncio, sys; from keda_scaler.sources.kubernetes import ServiceDirectory; "
        "asyncio.run(ServiceDirectory().prepare()); "
        "print('kubernetes_asyncio.client' in sys.modules)"
    )
    env = {"PATH": "/nowhere", "PYTHONPATH": str(Path(__file__).parents[2]), **surroundings}
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, check=True, text=True, env=env
    )
    return done.stdout


def test_without_a_cluster_the_start_does_not_wait_for_one() -> None:
    """Who reads fixed addresses does not pay for the client, nor hear of a cluster."""
    assert run_prepare(HOME="/nowhere") == "False\n"


def test_what_cannot_be_prepared_is_said_and_prevents_nothing() -> None:
    """The client is there all the same, and what is wrong will be said again when it matters."""
    said = run_prepare(HOME="/nowhere", KUBECONFIG="/dev/null")

    assert "does not answer at the start" in said
    assert said.endswith("True\n")


async def test_the_first_list_finds_a_connection(cluster: SimulatedCluster, build: Build) -> None:
    """The server has been asked before anybody follows a namespace; what it says is all one."""
    configured = 0

    async def configure() -> Any:
        nonlocal configured
        configured += 1
        return await at_url(cluster.url)()

    directory = build(configure=configure)
    with structlog.testing.capture_logs() as logs:
        await directory.prepare()

    assert (configured, logs) == (1, [])
    cluster.put_service("models", "llama", [GPU_0])
    async with directory.follow("models") as view:
        await listed(view, "gpu-0")
    assert configured == 1


async def test_a_server_that_hangs_does_not_hold_up_the_start(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait at the start has an end."""
    monkeypatch.setattr("keda_scaler.sources.kubernetes.PREPARE_SECONDS", 0.1)

    async def configure() -> Any:
        await asyncio.Event().wait()

    with structlog.testing.capture_logs() as logs:
        await build(configure=configure).prepare()

    assert [log["reason"] for log in logs] == ["no answer within 0.1 s"]

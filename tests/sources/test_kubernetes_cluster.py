"""The simulated API server keeps the promises of a real one that clients rely on."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from keda_scaler.sim.kubernetes import PATH, Fault, SimulatedCluster, SimulatedEndpoint

GPU_0 = SimulatedEndpoint("10.0.0.1", "gpu-0")
GPU_1 = SimulatedEndpoint("10.0.0.2", "gpu-1")
SLICES = PATH.format(namespace="models")


@pytest.fixture
async def cluster() -> AsyncIterator[SimulatedCluster]:
    """Give an API server with nothing in it."""
    async with SimulatedCluster() as cluster:
        yield cluster


@pytest.fixture
async def session(cluster: SimulatedCluster) -> AsyncIterator[aiohttp.ClientSession]:
    """Give a plain HTTP client of it."""
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(cluster.url, timeout=timeout) as session:
        yield session


async def read(session: aiohttp.ClientSession, **query: str) -> Any:
    """Get a list."""
    async with session.get(SLICES, params=query) as response:
        return await response.json()


async def next_of(watch: aiohttp.ClientResponse) -> tuple[str, dict[str, Any]]:
    """Read the next event of a watch: its type and its object."""
    event = json.loads(await watch.content.readline())
    return event["type"], event["object"]


async def test_a_watch_gives_what_comes_after_its_version(
    cluster: SimulatedCluster, session: aiohttp.ClientSession
) -> None:
    """A list names its version, and a watch from there gives every change of its namespace."""
    cluster.put_service("models", "llama", [GPU_0])
    listed = await read(session)
    cluster.put_service("models", "llama", [GPU_0, GPU_1])
    cluster.put_service("others", "llama", [GPU_0])
    version = listed["metadata"]["resourceVersion"]

    async with session.get(SLICES, params={"watch": "1", "resourceVersion": version}) as watch:
        first = await next_of(watch)
        cluster.delete_service("models", "llama")
        second = await next_of(watch)

    assert [item["endpoints"] for item in listed["items"]] == [[GPU_0.to_json()]]
    assert (first[0], first[1]["endpoints"]) == ("MODIFIED", [GPU_0.to_json(), GPU_1.to_json()])
    assert (second[0], second[1]["endpoints"]) == ("DELETED", first[1]["endpoints"])
    versions = [
        int(version),
        *(int(it[1]["metadata"]["resourceVersion"]) for it in (first, second)),
    ]
    assert versions == sorted(set(versions))


async def test_a_watch_without_a_version_begins_with_what_there_is(
    cluster: SimulatedCluster, session: aiohttp.ClientSession
) -> None:
    """As a real one does, it makes an event of each object."""
    cluster.put_service("models", "llama", [GPU_0])

    async with session.get(SLICES, params={"watch": "true"}) as watch:
        kind, content = await next_of(watch)

    assert (kind, content["metadata"]["labels"]) == (
        "ADDED",
        {"kubernetes.io/service-name": "llama"},
    )


async def test_puts_what_is_the_same_without_a_change(
    cluster: SimulatedCluster, session: aiohttp.ClientSession
) -> None:
    """Saying again what a Service has makes no new version."""
    cluster.put_service("models", "llama", [GPU_0])
    before = await read(session)
    cluster.put_service("models", "llama", [GPU_0])

    assert await read(session) == before


async def test_bookmarks_only_where_they_are_allowed(
    cluster: SimulatedCluster, session: aiohttp.ClientSession
) -> None:
    """A bookmark tells the current version, also to a namespace in which nothing happens."""
    query = {"watch": "true", "resourceVersion": "1"}
    async with (
        session.get(SLICES, params={**query, "allowWatchBookmarks": "true"}) as allowed,
        session.get(SLICES, params=query) as plain,
    ):
        cluster.put_service("others", "llama", [GPU_0])
        cluster.bookmark()
        bookmark = await next_of(allowed)
        cluster.put_service("models", "llama", [GPU_0])
        change = await next_of(plain)

    assert bookmark[0] == "BOOKMARK"
    assert bookmark[1]["metadata"] == {"resourceVersion": "2"}
    assert change[0] == "ADDED"


async def test_old_versions_are_gone(
    cluster: SimulatedCluster, session: aiohttp.ClientSession
) -> None:
    """The history is bounded: a version from before it is answered with 410."""
    for n in range(1002):
        cluster.put_service("models", "llama", [GPU_0] if n % 2 else [GPU_1])

    async with session.get(SLICES, params={"watch": "true", "resourceVersion": "2"}) as watch:
        assert watch.status == 410


async def test_a_watch_that_falls_behind_ends_with_an_error(
    cluster: SimulatedCluster, session: aiohttp.ClientSession
) -> None:
    """A watch that cannot be given a change is not given the next one."""
    async with session.get(SLICES, params={"watch": "true", "resourceVersion": "1"}) as watch:
        cluster.put_service("models", "llama", [GPU_0])
        cluster.compact()
        kind, status = await next_of(watch)
        rest = await watch.read()

    assert (kind, status["code"], rest) == ("ERROR", 410, b"")


async def test_pages_show_one_version(
    cluster: SimulatedCluster, session: aiohttp.ClientSession
) -> None:
    """Later pages of a list know nothing of changes after its first, and expire."""
    cluster.put_service("models", "a", [GPU_0])
    cluster.put_service("models", "b", [GPU_0])
    first = await read(session, limit="1")
    cluster.delete_service("models", "b")
    token = first["metadata"]["continue"]
    second = await read(session, **{"limit": "1", "continue": token})
    again = await read(session, **{"limit": "1", "continue": token})

    assert first["metadata"]["remainingItemCount"] == 1
    assert second["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}
    assert [item["metadata"]["name"] for item in second["items"]] == ["b-ipv4-http-8000"]
    assert again["code"] == 410


async def test_ends_quickly_with_open_and_hanging_requests() -> None:
    """Neither a watch nor a request that is never answered holds up the end."""
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(5), SimulatedCluster() as cluster:
            watch = await session.get(cluster.url + SLICES, params={"watch": "true"})
            cluster.fail(Fault(hangs=True))
            hanging = asyncio.create_task(session.get(cluster.url + SLICES))
            await cluster.until(lambda: len(cluster.requests) == 2)
        watch.close()
        done = await asyncio.gather(hanging, return_exceptions=True)

    assert cluster.open_watches == 0
    for response in done:
        if isinstance(response, aiohttp.ClientResponse):
            response.close()

"""A simulated engine over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.page import CONTENT_TYPE
from keda_scaler.sim.requests import FinishReason, Request
from keda_scaler.sim.server import FailureMode, SimulatedEngine

FAST = EngineModel(
    name="tiny-llama", step_seconds=1e-5, step_seconds_per_request=0.0, prefill_rate=1e7
)
SLOW = EngineModel(name="tiny-llama", max_num_seqs=1, max_waiting=5, step_seconds=100.0)
"""Nothing finishes within a test."""

FOREVER = Request(16, 100)


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """Give a client whose every request has a deadline."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session:
        yield session


@pytest.fixture
async def slow() -> AsyncIterator[SimulatedEngine]:
    """Give an engine in which nothing finishes."""
    async with SimulatedEngine(SLOW) as engine:
        yield engine


async def _get(
    client: aiohttp.ClientSession, engine: SimulatedEngine, path: str = "/metrics"
) -> tuple[int, str]:
    async with client.get(engine.url + path) as answer:
        return answer.status, await answer.text()


async def _post(
    client: aiohttp.ClientSession, engine: SimulatedEngine, path: str, body: object
) -> tuple[int, Any]:
    async with client.post(engine.url + path, json=body) as answer:
        return answer.status, await answer.json()


def _gauge(page: str, name: str) -> float:
    (line,) = (line for line in page.splitlines() if line.startswith(f"vllm:{name}{{"))
    return float(line.rpartition(" ")[2])


async def _until(
    client: aiohttp.ClientSession, engine: SimulatedEngine, waiting: int, running: int
) -> None:
    """Exchange messages with the engine until it holds that much; bounded."""
    for _ in range(1000):
        if (engine.state().waiting, engine.state().running) == (waiting, running):
            return
        await _get(client, engine, "/health")
    pytest.fail(f"never {waiting} waiting and {running} running: {engine.state()}")


async def test_page_shows_what_was_submitted(
    client: aiohttp.ClientSession, slow: SimulatedEngine
) -> None:
    """Direct submissions are on the page at once, and it has vLLM's content type."""
    taken = slow.submit_all(FOREVER, 5)

    async with client.get(slow.url + "/metrics") as answer:
        page = await answer.text()

    assert answer.headers["Content-Type"] == CONTENT_TYPE
    assert taken == 5
    assert _gauge(page, "num_requests_running") == 1
    assert _gauge(page, "num_requests_waiting") == 4


async def test_health_answers_in_every_mode(
    client: aiohttp.ClientSession, slow: SimulatedEngine
) -> None:
    """Failures are of the metrics page only."""
    for mode in FailureMode:
        slow.set_mode(mode)
        assert (await _get(client, slow, "/health"))[0] == 200


async def test_completion_is_answered_when_it_is_done(client: aiohttp.ClientSession) -> None:
    """The answer tells the usage; the engine counts the request as ended by length."""
    async with SimulatedEngine(FAST) as engine:
        status, body = await _post(
            client,
            engine,
            "/v1/completions",
            {"model": "tiny-llama", "prompt": "word " * 20, "max_tokens": 50, "temperature": 0},
        )
        state = engine.state()

    assert status == 200
    assert body["usage"] == {"prompt_tokens": 25, "completion_tokens": 50, "total_tokens": 75}
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["model"] == "tiny-llama"
    assert state.finished[FinishReason.LENGTH] == 1
    assert (state.waiting, state.running) == (0, 0)


async def test_a_chat_streams_its_tokens_at_the_engines_pace(
    client: aiohttp.ClientSession,
) -> None:
    """Tokens come one by one, none before the engine made it; the last event says how it ended."""
    model = EngineModel(name="tiny-llama", step_seconds=0.02, prefill_rate=1e7)
    loop = asyncio.get_running_loop()
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "stream": True}
    async with SimulatedEngine(model) as engine:
        begin = loop.time()
        async with client.post(engine.url + "/v1/chat/completions", json=body) as answer:
            first = loop.time() - begin
            *lines, end = [line[6:] for line in (await answer.text()).splitlines() if line]
            took = loop.time() - begin

    assert answer.headers["Content-Type"] == "text/event-stream"
    chunks = [json.loads(line)["choices"][0] for line in lines]
    assert end == "[DONE]"
    assert "".join(each["delta"]["content"] for each in chunks) == "word " * 8
    assert [each["finish_reason"] for each in chunks][-2:] == [None, "length"]
    assert 0.02 <= first < took
    assert took >= 8 * 0.02


async def test_many_streams_are_all_whole(client: aiohttp.ClientSession) -> None:
    """More streams than places all get every token, however fast the engine is."""
    body = {"messages": [{"content": "Hi"}], "stream": True}
    async with SimulatedEngine(FAST) as engine:

        async def ask(tokens: int) -> str:
            chat = body | {"max_tokens": tokens}
            async with client.post(engine.url + "/v1/chat/completions", json=chat) as answer:
                return await answer.text()

        texts = await asyncio.gather(*(ask(tokens) for tokens in range(1, 31)))

    assert [text.count("word") for text in texts] == list(range(1, 31))
    assert all(text.endswith("data: [DONE]\n\n") for text in texts)


async def test_a_chat_without_a_stream_is_answered_whole(client: aiohttp.ClientSession) -> None:
    """As OpenAI's API does where `stream` is not set."""
    body = {"messages": [{"role": "user", "content": "word " * 8}], "max_tokens": 5}
    async with SimulatedEngine(FAST) as engine:
        status, answer = await _post(client, engine, "/v1/chat/completions", body)

    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "word " * 5
    assert answer["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


async def test_a_stream_whose_reader_goes_away_is_aborted(
    client: aiohttp.ClientSession, slow: SimulatedEngine
) -> None:
    """Its place is free for the next, as in vLLM."""
    body = {"messages": [{"content": "Hi"}], "stream": True}
    task = asyncio.create_task(_post(client, slow, "/v1/chat/completions", body))
    await _until(client, slow, 0, 1)

    task.cancel()
    await _until(client, slow, 0, 0)

    assert slow.state().finished[FinishReason.ABORT] == 1


async def test_many_completions_are_all_answered(client: aiohttp.ClientSession) -> None:
    """More clients than places wait for each other and all get what they asked for."""
    async with SimulatedEngine(FAST) as engine:
        answers = await asyncio.gather(
            *(
                _post(client, engine, "/v1/completions", {"prompt_tokens": 9, "max_tokens": tokens})
                for tokens in range(1, 31)
            )
        )

    assert [body["usage"]["completion_tokens"] for _, body in answers] == list(range(1, 31))


async def test_client_that_goes_away_aborts_its_request(
    client: aiohttp.ClientSession, slow: SimulatedEngine
) -> None:
    """A closed connection frees the request's place, as in vLLM."""
    task = asyncio.create_task(_post(client, slow, "/v1/completions", {"max_tokens": 9}))
    await _until(client, slow, 0, 1)

    task.cancel()
    await _until(client, slow, 0, 0)

    assert slow.state().finished[FinishReason.ABORT] == 1
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/completions", {"max_tokens": 0}, "max_tokens"),
        ("/v1/completions", {"prompt_tokens": 10**6}, "larger than the KV cache"),
        ("/v1/completions", [], "body"),
        ("/v1/chat/completions", {"stream": True}, "messages"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/control", {"mode": "broken"}, "mode"),
        ("/control", {"modus": "ok"}, "modus"),
        ("/control", {"load": {"requests": 0}}, "load.requests"),
        ("/control", {"load": {"requests": 1, "prompt_tokens": 10**6}}, "larger than the KV cache"),
    ],
)
async def test_bad_bodies_are_refused_by_name(
    client: aiohttp.ClientSession, slow: SimulatedEngine, path: str, body: object, named: str
) -> None:
    """A 400 says what was wrong, and nothing was submitted."""
    status, answer = await _post(client, slow, path, body)

    assert status == 400
    assert named in answer["error"]["message"]
    assert slow.state().submitted == 0


async def test_full_queue_refuses_completions(
    client: aiohttp.ClientSession, slow: SimulatedEngine
) -> None:
    """One request too many gets a 503, and direct loads are cut at the cap."""
    taken = slow.submit_all(FOREVER, 100)

    status, _ = await _post(client, slow, "/v1/completions", {})

    assert taken == 6
    assert status == 503


@pytest.mark.parametrize(
    ("mode", "status", "has_families"),
    [
        (FailureMode.OK, 200, True),
        (FailureMode.ERROR, 500, False),
        (FailureMode.NO_FAMILIES, 200, False),
        (FailureMode.FREEZE, 200, True),
    ],
)
async def test_modes_switched_over_http(
    client: aiohttp.ClientSession,
    slow: SimulatedEngine,
    mode: FailureMode,
    status: int,
    *,
    has_families: bool,
) -> None:
    """Each mode does to the page what it says."""
    answer = await _post(client, slow, "/control", {"mode": mode})
    page = await _get(client, slow)

    assert answer == (200, {"mode": mode, "waiting": 0, "running": 0})
    assert page[0] == status
    assert ("vllm:num_requests_waiting{" in page[1]) == has_families


async def test_garbage_is_no_exposition(
    client: aiohttp.ClientSession, slow: SimulatedEngine
) -> None:
    """The answer looks right from outside; only a parser notices."""
    slow.set_mode(FailureMode.GARBAGE)

    status, page = await _get(client, slow)

    assert status == 200
    assert "not a sample" in page


async def test_frozen_gauges_stay_while_counters_go_on(client: aiohttp.ClientSession) -> None:
    """A frozen page still shows what waited and ran; thawed it shows the truth."""
    async with SimulatedEngine(SLOW) as engine:
        ids = [engine.submit(FOREVER) for _ in range(4)]
        engine.set_mode(FailureMode.FREEZE)
        for each in ids:
            engine.abort(each)

        _, frozen = await _get(client, engine)
        engine.set_mode(FailureMode.OK)
        _, thawed = await _get(client, engine)

    assert _gauge(frozen, "num_requests_running") == 1
    assert _gauge(frozen, "num_requests_waiting") == 3
    assert _gauge(frozen, "kv_cache_usage_perc") > 0
    assert 'finished_reason="abort",model_name="tiny-llama"} 4.0' in frozen
    assert _gauge(thawed, "num_requests_running") == 0
    assert _gauge(thawed, "num_requests_waiting") == 0
    assert _gauge(thawed, "kv_cache_usage_perc") == 0


async def test_load_over_http_arrives_at_once(
    client: aiohttp.ClientSession, slow: SimulatedEngine
) -> None:
    """One call fills the batch and the queue."""
    load = {"requests": 6, "prompt_tokens": 50, "output_tokens": 10}

    answer = await _post(client, slow, "/control", {"load": load})

    assert answer == (200, {"mode": "ok", "waiting": 5, "running": 1})


async def test_hanging_pages_are_answered_after_the_switch_back(
    client: aiohttp.ClientSession, slow: SimulatedEngine
) -> None:
    """A page that hangs has no answer until the mode changes; then it has a good one."""
    slow.set_mode(FailureMode.HANG)
    asked = asyncio.create_task(_get(client, slow))
    await _get(client, slow, "/health")  # the loop went round, and other pages answer
    hung = not asked.done()

    await _post(client, slow, "/control", {"mode": "ok"})
    status, page = await asked

    assert hung
    assert status == 200
    assert _gauge(page, "num_requests_waiting") == 0


async def test_it_closes_at_once_while_everything_hangs(client: aiohttp.ClientSession) -> None:
    """Shutdown waits neither for hanging pages nor for answers under way."""
    loop = asyncio.get_running_loop()
    async with SimulatedEngine(SLOW) as engine:
        engine.set_mode(FailureMode.HANG)
        pages = [asyncio.create_task(_get(client, engine)) for _ in range(3)]
        completions = [
            asyncio.create_task(_post(client, engine, path, body))
            for path, body in (
                ("/v1/completions", {}),
                ("/v1/chat/completions", {"messages": [{}]}),
                ("/v1/chat/completions", {"messages": [{}], "stream": True}),
            )
        ]
        await _until(client, engine, 2, 1)
        begin = loop.time()
    closed = loop.time() - begin

    assert closed < 0.9
    assert [status for status, _ in await asyncio.gather(*pages)] == [200] * 3
    assert [status for status, _ in await asyncio.gather(*completions)] == [503] * 3


async def test_two_engines_take_ports_of_their_own() -> None:
    """Port 0 takes a free port and tells which; a taken one is an error, and nothing leaks."""
    async with SimulatedEngine() as one, SimulatedEngine() as other:
        assert one.port != other.port
        assert one.url == f"http://127.0.0.1:{one.port}"
        with pytest.raises(OSError, match="address already in use"):
            await SimulatedEngine(port=one.port).__aenter__()


async def test_hanging_clients_may_give_up(
    client: aiohttp.ClientSession, slow: SimulatedEngine
) -> None:
    """A reader with a deadline gets its own timeout, and the engine goes on."""
    slow.set_mode(FailureMode.HANG)

    with pytest.raises(TimeoutError):
        async with client.get(slow.url + "/metrics", timeout=aiohttp.ClientTimeout(0.05)):
            pass

    slow.set_mode(FailureMode.OK)
    assert (await _get(client, slow))[0] == 200

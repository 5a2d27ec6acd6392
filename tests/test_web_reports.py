"""POST /v1/reports, over a real server: who may report, what is accepted, what is answered."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.app import App
from keda_scaler.core.readings import Missing
from keda_scaler.core.reports import MAX_REPORTERS, Report, Tally
from keda_scaler.errors import ReportsUnavailableError, SettingsError
from keda_scaler.settings import Settings, load_settings
from keda_scaler.sources.reports import MemoryReports
from keda_scaler.telemetry import Telemetry
from keda_scaler.web import reports as api
from keda_scaler.web.reports import MAX_BODY_BYTES, MAX_REPORTS, ReportsApi, parse_reports
from keda_scaler.web.server import WebServer
from keda_scaler.web.tokens import Tokens
from prometheus_server import free_port

TOKEN = "models-0123456789abcdef"
EVERYWHERE = "everywhere-0123456789abcdef"
GOOD = {"namespace": "models", "name": "llama", "waiting": 3}


class Client:
    """Posts to a server that keeps reports in memory."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url
        self.kept = MemoryReports()

    async def post(
        self, body: Any, token: str | None = TOKEN, **options: Any
    ) -> tuple[int, Any, dict[str, str]]:
        """Give the status, the parsed answer and the headers."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = options.pop("headers", {})
        if token is not None:
            headers |= {"Authorization": f"Bearer {token}"}
        request = self._session.post(self.url, data=data, headers=headers, **options)
        async with request as answer:
            return answer.status, await answer.json(), dict(answer.headers)

    def known(self, namespace: str = "models", name: str = "llama") -> Tally | Missing:
        found: list[Tally | Missing] = []
        self.kept.watch(namespace, name, found.append)()
        return found[0]

    def waiting(self, namespace: str = "models", name: str = "llama") -> int | None:
        known = self.known(namespace, name)
        return known.waiting if isinstance(known, Tally) else None


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Write the tokens of one namespace, and of all."""
    file = tmp_path / "tokens"
    file.write_text(f"models {TOKEN}\n* {EVERYWHERE}\n")
    return file


@pytest.fixture
async def client(tokens: Path) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        posting = Client(session, "")
        reports = ReportsApi(posting.kept, await asyncio.to_thread(Tokens, tokens))
        server = WebServer("127.0.0.1:0", Telemetry(), lambda: True, reports)
        await server.start()
        posting.url = f"http://127.0.0.1:{server.port}/v1/reports"
        yield posting
        await server.stop()


async def test_one_report_or_many(client: Client) -> None:
    """Both are taken, and how many is said."""
    assert (await client.post(GOOD))[:2] == (200, {"accepted": 1})
    assert client.waiting() == 3

    more = [
        GOOD | {"reporter": "worker-1", "waiting": 1, "running": 2, "ttlSeconds": 60},
        GOOD | {"name": "qwen.v2", "waiting": 0},
    ]
    assert (await client.post(more))[:2] == (200, {"accepted": 2})
    assert client.waiting() == 4
    assert client.waiting(name="qwen.v2") == 0


async def test_who_does_not_say_who_it_is_is_its_address(client: Client) -> None:
    """The same client replaces its own report, and nobody else's."""
    await client.post(GOOD)
    await client.post(GOOD | {"waiting": 5})
    assert client.waiting() == 5
    await client.post(GOOD | {"waiting": 2, "reporter": "127.0.0.1"})
    assert client.waiting() == 2
    await client.post(GOOD | {"waiting": 1, "reporter": "b"})
    assert client.waiting() == 3


@pytest.mark.parametrize("token", [None, "", "unknown-0123456789abcdef", f"{TOKEN} x"])
async def test_without_a_known_token_nothing_is_read(client: Client, token: str | None) -> None:
    """401, and how to do it; what the body is does not matter."""
    status, answer, headers = await client.post(b"not JSON", token)

    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer == {"error": "a known bearer token is needed"}
    assert (await client.post(GOOD, headers={"Authorization": f"Basic {TOKEN}"}, token=None))[
        0
    ] == 401


async def test_a_token_speaks_for_its_namespace_only(client: Client) -> None:
    """The report is named, nothing of the request is taken; another token may speak for all."""
    other = GOOD | {"namespace": "chat"}
    status, answer, _ = await client.post([GOOD, other])

    assert status == 403
    assert answer["errors"] == [
        {"field": "[1].namespace", "got": "chat", "accepted": "models, by this token"}
    ]
    assert client.waiting() is None
    assert (await client.post(other))[1]["errors"][0]["field"] == "namespace"
    assert (await client.post([GOOD, other], EVERYWHERE))[0] == 200
    assert client.waiting("chat") == 3


@pytest.mark.parametrize(
    ("change", "field", "got"),
    [
        ({"waiting": -1}, "waiting", -1),
        ({"waiting": 1.0}, "waiting", 1.0),
        ({"waiting": "1"}, "waiting", "1"),
        ({"waiting": True}, "waiting", True),
        ({"waiting": None}, "waiting", None),
        ({"waiting": 10**9 + 1}, "waiting", 10**9 + 1),
        ({"waiting": 10**30}, "waiting", 10**30),
        ({"running": [1]}, "running", "an array"),
        ({"ttlSeconds": 0}, "ttlSeconds", 0),
        ({"ttlSeconds": 86401}, "ttlSeconds", 86401),
        ({"namespace": ""}, "namespace", ""),
        ({"namespace": "a/b"}, "namespace", "a/b"),
        ({"namespace": "a\n"}, "namespace", "a\n"),
        ({"namespace": "a" * 64}, "namespace", "a" * 64),
        ({"name": "x" * 300}, "name", "x" * 80 + "..."),
        ({"name": {}}, "name", "an object"),
        ({"reporter": ""}, "reporter", ""),
        ({"reporter": "a b"}, "reporter", "a b"),
        ({"ttl_seconds": 5}, "ttl_seconds", "an unknown field"),
    ],
)
async def test_a_wrong_field_is_named(client: Client, change: Any, field: str, got: Any) -> None:
    """422 with the field, what was given, and what is accepted; nothing is taken."""
    status, answer, _ = await client.post([GOOD, GOOD | {"reporter": "b"} | change])

    assert status == 422
    (problem,) = answer["errors"]
    assert (problem["field"], problem["got"]) == (f"[1].{field}", got)
    assert problem["accepted"]
    assert client.waiting() is None


async def test_all_that_is_wrong_is_named_at_once(client: Client) -> None:
    """Of one report by the bare field; of very many the first."""
    status, answer, _ = await client.post({"waiting": "x", "more": 1})
    assert status == 422
    named = {problem["field"]: problem["got"] for problem in answer["errors"]}
    assert named == {
        "namespace": "nothing",
        "name": "nothing",
        "waiting": "x",
        "more": "an unknown field",
    }

    status, answer, _ = await client.post([3] * MAX_REPORTS)
    assert status == 422
    assert [problem["field"] for problem in answer["errors"]] == [f"[{n}]" for n in range(20)]


async def test_very_many_unknown_fields(client: Client) -> None:
    """Some are named; what is right beside them stays right."""
    many = {f"x{number}": 1 for number in range(10_000)}
    status, answer, _ = await client.post(many | GOOD)
    assert status == 422
    assert {problem["got"] for problem in answer["errors"]} == {"an unknown field"}
    assert len(answer["errors"]) == 20


@pytest.mark.parametrize(
    ("body", "got"),
    [([], "0 reports"), ([GOOD] * (MAX_REPORTS + 1), "1001 reports"), (3, 3), (None, None)],
)
async def test_neither_one_nor_several(client: Client, body: Any, got: Any) -> None:
    """422 that says how many are accepted."""
    status, answer, _ = await client.post(body)

    accepted = "one object, or an array of 1 to 1000"
    assert (status, answer["errors"]) == (422, [{"field": "", "got": got, "accepted": accepted}])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"waiting=3",
        b'{"namespace": "models"',
        b"[" * 10_000,
        b'{"waiting": NaN}',
        b'{"waiting": %s}' % (b"1" * 5000),
        b"\xff\xfe",
        gzip.compress(b"[]", mtime=0),
    ],
)
async def test_what_is_not_json_is_said_to_be_none(client: Client, body: bytes) -> None:
    """400 with the place."""
    status, answer, _ = await client.post(body)

    assert status == 400
    assert answer["error"].startswith("the body is not JSON: ")


async def test_a_number_without_end_is_repeated_as_text(client: Client) -> None:
    """JSON has no infinity, so that not every client could read the answer."""
    body = b'{"namespace": "models", "name": "llama", "waiting": 1e999}'
    status, answer, _ = await client.post(body)

    assert status == 422
    assert answer["errors"][0]["got"] == "inf"


async def test_a_packed_body_is_not_unpacked(client: Client) -> None:
    """A few bytes must not become many."""
    bomb = gzip.compress(b" " * 10_000_000)
    assert (await client.post(bomb, headers={"Content-Encoding": "gzip"}))[0] == 400


async def test_a_large_body_is_refused(client: Client) -> None:
    """413 that says how much is accepted, whether or not the length was announced."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1024 + 1):
            yield b" " * 1024

    expected = {"error": "at most 262144 bytes are accepted; send several"}
    assert (await client.post(b" " * (MAX_BODY_BYTES + 1)))[:2] == (413, expected)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with client._session.post(client.url, data=chunks(), headers=headers) as answer:
        assert (answer.status, await answer.json()) == (413, expected)


async def test_a_body_that_does_not_come_is_not_waited_for(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """408, so that slow clients hold nothing."""
    monkeypatch.setattr(api, "BODY_SECONDS", 0.05)
    gate = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"["
        await gate.wait()

    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with client._session.post(client.url, data=body(), headers=headers) as answer:
        assert answer.status == 408
        gate.set()


async def test_too_many_reporters(client: Client) -> None:
    """429 that says what is capped, and when to come again; nothing is taken."""
    many = [GOOD | {"reporter": f"r{number}"} for number in range(MAX_REPORTERS + 1)]
    status, answer, headers = await client.post(many)

    assert (status, headers["Retry-After"]) == (429, "1")
    assert "models/llama would have more than 100 reporters" in answer["error"]
    assert client.waiting() is None


async def test_what_cannot_be_kept_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, the reason, and when to come again."""

    async def away(_: Sequence[Report]) -> None:
        raise ReportsUnavailableError("Redis cannot be reached")

    monkeypatch.setattr(client.kept, "state", away)
    status, answer, headers = await client.post(GOOD)

    assert (status, headers["Retry-After"]) == (503, "1")
    assert answer == {"error": "Redis cannot be reached; state it again"}


async def test_only_post(client: Client) -> None:
    """405, with what is allowed."""
    async with client._session.get(client.url) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)
fields = st.sampled_from(
    ["namespace", "name", "waiting", "running", "ttlSeconds", "reporter", "other"]
)
almost = st.fixed_dictionaries(
    {},
    optional={
        "namespace": st.just("models") | values,
        "name": st.just("llama") | values,
        "waiting": st.integers(0, 10**9) | values,
        "running": st.integers(0, 10**9) | values,
        "ttlSeconds": st.integers(1, 86400) | values,
        "reporter": st.just("gateway-1") | values,
    },
)
good = st.fixed_dictionaries(
    {"namespace": st.just("models"), "name": st.just("llama"), "waiting": st.integers(0, 10**9)}
)


@given(
    values | almost | good | st.lists(almost | good, max_size=4) | st.dictionaries(fields, values)
)
def test_whatever_is_posted_is_a_report_or_a_problem(posted: Any) -> None:
    """What is taken is what was stated, within its bounds; all else names fields, as JSON."""
    problems: Sequence[dict[str, Any]] | None = None
    try:
        reports = parse_reports(posted, "10.0.0.1")
    except api._WrongError as error:
        problems = error.problems
    if problems is not None:
        assert 1 <= len(problems) <= 20
        assert all(set(each) == {"field", "got", "accepted"} for each in problems)
        assert len(json.dumps(problems)) < 20 * 1000
        return
    stated = posted if isinstance(posted, list) else [posted]
    assert len(reports) == len(stated)
    for report, each in zip(reports, stated, strict=True):
        assert type(report.waiting) is int
        assert 0 <= report.waiting <= 10**9
        assert 1 <= report.ttl_seconds <= 86400
        assert report.waiting == each["waiting"]
        assert report.reporter == each.get("reporter", "10.0.0.1") or each["reporter"] is None


@contextlib.asynccontextmanager
async def running(**flags: Any) -> AsyncIterator[App]:
    addresses = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    async with App(load_settings(addresses | flags)) as app:
        yield app


async def test_a_server_without_tokens_takes_no_reports() -> None:
    """404 that says which setting is missing."""
    async with running() as app, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{app.http_port}/v1/reports"
        async with session.post(url, json=GOOD) as answer:
            assert answer.status == 404
            assert "--report-tokens" in (await answer.json())["error"]


async def test_a_server_with_tokens_takes_reports(tokens: Path) -> None:
    """The flag is all it needs."""
    async with running(report_tokens=tokens) as app, aiohttp.ClientSession() as session:
        client = Client(session, f"http://127.0.0.1:{app.http_port}/v1/reports")
        assert (await client.post(GOOD))[:2] == (200, {"accepted": 1})


async def test_a_server_whose_redis_is_away_takes_none(tokens: Path) -> None:
    """It starts all the same: it must answer for targets that need no reports."""
    url = f"redis://127.0.0.1:{free_port()}"
    async with (
        running(report_tokens=tokens, redis_url=url) as app,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, f"http://127.0.0.1:{app.http_port}/v1/reports")
        assert (await client.post(GOOD))[0] == 503


async def test_a_server_does_not_start_with_a_bad_file(tmp_path: Path) -> None:
    """A typing error is found at the start, not by the first reporter."""
    with pytest.raises(SettingsError, match="No such file"):
        async with running(report_tokens=tmp_path / "absent"):
            pass


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"redis_url": "redis://redis:6379"}, "--redis-url needs --report-tokens"),
        ({"redis_url": "redis://:s3cret@redis"}, "redis_url: redis://HOST:PORT/DATABASE"),
        ({"redis_url": "http://redis"}, "redis_url: redis://HOST:PORT/DATABASE"),
        ({"redis_url": "redis://redis/x"}, "redis_url: redis://HOST:PORT/DATABASE"),
        ({"redis_url": "redis://redis:99999"}, "redis_url: redis://HOST:PORT/DATABASE"),
        ({"redis_url": "redis://redis?ssl_cert_reqs=none"}, "redis_url: redis://HOST:PORT"),
        ({"redis_password_file": Path("x")}, "need --redis-url"),
        ({"redis_ca_file": Path("x")}, "need --redis-url"),
    ],
)
def test_settings_that_are_wrong_are_named(flags: dict[str, Any], says: str) -> None:
    """Each problem says what is accepted; a password is not repeated."""
    with pytest.raises(SettingsError) as caught:
        load_settings(flags)

    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_redis_with_and_without_tls() -> None:
    """A user may stand in the URL, its password in a file."""
    for url in ("redis://redis", "rediss://scaler@redis.example.com:6380/3", "redis://[::1]:6379/"):
        settings: Settings = load_settings({"redis_url": url, "report_tokens": Path("t")})
        assert settings.redis_url == url

"""The Prometheus source against a Prometheus that misbehaves."""

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from structlog.testing import capture_logs

from keda_scaler import engines
from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.signals import Signal
from keda_scaler.errors import SourceError
from keda_scaler.sources import promanswer, promapi, prometheus
from keda_scaler.sources.promapi import MAX_IN_FLIGHT, Prometheus, PrometheusServer
from keda_scaler.sources.prometheus import PrometheusSource
from keda_scaler.sources.promrounds import MAX_BACKOFF_SECONDS, pause
from prometheus_fake import FakePrometheus, always, drip, flood, hang, success
from prometheus_server import free_port
from prometheus_sink import RULES, RememberingSink, reading, trigger_of, until

PIN = promapi.Pin(unix=2.0, at=1.0, newest=2.0, skew=0.0, before=None)


@pytest.fixture
async def fake() -> AsyncIterator[FakePrometheus]:
    """Run a fake Prometheus."""
    async with FakePrometheus() as server:
        yield server


async def failure(server: PrometheusServer, rules: AddressRules | None = None) -> str:
    """Query, and give the text of the error that this must end with."""
    prometheus = Prometheus(server, rules)
    try:
        with pytest.raises(SourceError) as caught:
            list(map(promapi.sample_of, await prometheus.query("up"), [PIN]))
    finally:
        prometheus.close()
    return str(caught.value)


async def first_poll(source: PrometheusSource, **keys: str) -> RememberingSink:
    """Run the source until its first poll is done."""
    async with reading(source, "models", trigger_of(**keys)) as sink:
        await until(lambda: sink.listings or sink.reasons)
    return sink


def source_of(fake: FakePrometheus) -> PrometheusSource:
    """Make a source whose Prometheus `main` is the fake one."""
    return PrometheusSource({"main": PrometheusServer(fake.url)}, RULES)


async def test_the_newest_sample_counts(fake: FakePrometheus) -> None:
    """Of the samples within the window the last is read, at its own time."""
    sink = await first_poll(source_of(fake))
    assert sink.number("pod-0", Signal.QUEUE_DEPTH) == 12
    assert sink.number("pod-0", Signal.CONCURRENCY) == 24
    assert 0.4 < time.monotonic() - sink.at < 3


async def test_queries_are_bound_to_the_namespace_and_to_one_instant(fake: FakePrometheus) -> None:
    """Every query about replicas names the namespace; all are evaluated at the same instant."""
    source = source_of(fake)
    trigger = trigger_of(engine="vllm", selector='job="vllm"')
    async with reading(source, 'a"b', trigger) as sink:
        await until(lambda: sink.listings)
    batches, _ = engines.batches(frozenset({"vllm"}), frozenset())
    names = ["|".join(sorted(batch)) for batch in batches]
    series = [f'{{__name__=~"{each}",namespace="a\\"b"}}' for each in names]
    last = len(series) + 1
    assert fake.queries[0].startswith("max(timestamp(up))")
    live = 'and on (namespace, pod, instance) up{namespace="a\\"b"}'
    assert set(fake.queries[1:last]) == {f"last_over_time({each}[1w]) {live}" for each in series}
    asked = [each for each in fake.queries[last:] if not each.startswith(("group by", "topk"))]
    assert sorted(asked) == sorted([*(f"{each}[5s]" for each in series), 'up{namespace="a\\"b"}'])
    assert len({request.query["time"] for request in fake.requests[1:]}) == 1


async def test_a_new_target_looks_back(fake: FakePrometheus) -> None:
    """A replica that fell silent before the target was new is listed and does not answer."""
    fake.silent = True
    sink = await first_poll(source_of(fake))
    assert sink.names == ["pod-0"]
    assert "no series of a known engine" in sink.problem("pod-0")


async def test_without_the_look_back_nothing_is_listed(fake: FakePrometheus) -> None:
    """A target whose look-back failed does not know its replicas, and asks again."""
    usual = fake._as_prometheus
    broken = True

    async def answer(request: web.Request) -> web.StreamResponse:
        if broken and "last_over_time" in request.query["query"]:
            raise web.HTTPServiceUnavailable
        return await usual(request)

    fake.answer = answer
    async with reading(source_of(fake), "models", trigger_of()) as sink:
        await until(lambda: sink.reasons)
        assert (sink.names, sink.reasons) == (None, ["Prometheus answered 503"])
        broken = False
        await until(lambda: sink.names == ["pod-0"])


async def test_old_scrapes_prove_nothing(fake: FakePrometheus) -> None:
    """A Prometheus that scrapes no more lists nothing, although it answers."""
    fake.scraped_ago = 6
    sink = await first_poll(source_of(fake))
    assert sink.names is None
    (reason,) = sink.reasons
    assert reason == (
        "the newest sample of Prometheus is older than staleSeconds (5); "
        "staleSeconds must exceed its scrape interval"
    )


async def test_a_prometheus_that_scrapes_nothing_proves_nothing(fake: FakePrometheus) -> None:
    """No `up` at all is not the same as no replica."""
    fake.answer = always('{"status":"success","data":{"result":[]}}')
    sink = await first_poll(source_of(fake))
    assert sink.reasons == ["Prometheus scrapes nothing: it has no series named up"]


@pytest.mark.parametrize("ahead", [-3.0, 3.0])
async def test_clocks_may_differ_a_little(fake: FakePrometheus, ahead: float) -> None:
    """Ages are taken by the clock of Prometheus: a difference makes nothing older or newer."""
    fake.clock_ahead = ahead
    sink = await first_poll(source_of(fake))
    assert sink.names == ["pod-0"]
    assert 0.4 < time.monotonic() - sink.at < 3


@pytest.mark.parametrize("ahead", [-60.0, 60.0])
async def test_clocks_may_not_differ_much(fake: FakePrometheus, ahead: float) -> None:
    """A Prometheus of another time, or an old answer out of a cache, proves nothing."""
    fake.clock_ahead = ahead
    sink = await first_poll(source_of(fake))
    assert sink.reasons == [
        "the clocks of Prometheus and of this server differ by more than staleSeconds (5)"
    ]


async def test_samples_of_the_future_are_of_now(fake: FakePrometheus) -> None:
    """No sample is newer than the instant that it was asked at."""
    fake.scraped_ago = -30
    sink = await first_poll(source_of(fake))
    assert sink.names == ["pod-0"]
    assert sink.at <= time.monotonic()


@pytest.mark.parametrize("answer", [hang, drip])
async def test_a_query_that_takes_too_long_ends_with_its_thread(
    fake: FakePrometheus, answer: object
) -> None:
    """Neither silence nor single bytes keep a query, nor the thread that waits for it."""
    prometheus = Prometheus(PrometheusServer(fake.url), query_seconds=0.3)
    fake.answer = answer  # type: ignore[assignment]  # both are answers
    slow = [prometheus.query("up") for _ in range(2 * MAX_IN_FLIGHT)]
    began = time.monotonic()
    results = await asyncio.gather(*slow, return_exceptions=True)
    assert {str(result) for result in results} == {"Prometheus did not answer within 0.3 seconds"}
    fake.answer = None
    assert await prometheus.query("up{}")
    assert time.monotonic() - began < 2
    threads = [thread for thread in threading.enumerate() if "prometheus" in thread.name]
    assert len(threads) <= MAX_IN_FLIGHT
    prometheus.close()
    await until(lambda: not any(thread.is_alive() for thread in threads), seconds=2)


async def test_one_that_hangs_does_not_delay_another(fake: FakePrometheus) -> None:
    """Every Prometheus has its own threads; cancelling ends the queries that hang."""
    fake.answer = hang
    async with FakePrometheus() as other:
        servers = {"main": PrometheusServer(other.url), "slow": PrometheusServer(fake.url)}
        source = PrometheusSource(servers, RULES)
        slow = trigger_of().model_copy(update={"prometheus": "slow"})
        tasks = [
            asyncio.create_task(source.run("models", slow, RememberingSink()))
            for _ in range(2 * MAX_IN_FLIGHT)
        ]
        await until(lambda: fake.requests)
        began = time.monotonic()
        sink = await first_poll(source)
        assert sink.names == ["pod-0"]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await source.aclose()
        assert time.monotonic() - began < 2


async def test_an_answer_is_bounded_in_bytes(fake: FakePrometheus) -> None:
    """A huge answer is not read to its end."""
    fake.answer = flood
    text = await failure(PrometheusServer(fake.url))
    assert text == "Prometheus answered more than 32 MiB"


async def test_an_answer_is_bounded_in_series(
    fake: FakePrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many series are refused, and the text says what to do."""
    monkeypatch.setattr(promanswer, "MAX_SERIES", 2)
    entry = '{"metric":{},"value":[1,"1"]}'
    fake.answer = always(f'{{"data":{{"result":[{entry},{entry},{entry}]}}}}')
    text = await failure(PrometheusServer(fake.url))
    assert text == "Prometheus answered more than 2 series"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "[1, 2]",
        "[" * 100_000,
        b"\xff\xfe\x00garbage" * 10_000,
        '{"data": {"result": {}}}',
        '{"data": {"result": [7]}}',
        '{"data": {"result": [{"metric": {}, "value": []}]}}',
        '{"data": {"result": [{"metric": {}, "values": []}]}}',
        '{"data": {"result": [{"metric": {}, "value": [1, "many"]}]}}',
        '{"data": {"result": [{"metric": {}, "value": [NaN, "1"]}]}}',
        '{"data": {"result": [{"metric": [], "value": [1, "1"]}]}}',
        '{"data": {"result": [{"metric": {}, "value": [' + "1" * 5000 + ', "1"]}]}}',
    ],
    ids=range(13),
)
async def test_garbage_is_not_an_answer(fake: FakePrometheus, body: str | bytes) -> None:
    """What is not in the form of the API is an error, never an empty answer."""
    fake.answer = always(body)
    text = await failure(PrometheusServer(fake.url))
    assert text == "the answer is not one of Prometheus' API"


async def test_part_of_the_data_is_not_an_answer(fake: FakePrometheus) -> None:
    """A store that could not be asked may be the one with the replicas."""

    async def partial(_: web.Request) -> web.StreamResponse:
        return success([], warnings=["store 10.1.2.3 is unreachable"])

    fake.answer = partial
    text = await failure(PrometheusServer(fake.url))
    assert text == "Prometheus gave only part of the data, and says so in a warning"


async def test_an_error_is_named_by_its_kind_or_status(fake: FakePrometheus) -> None:
    """What an error says beyond that may name addresses, and is not told to everybody."""
    fake.answer = always('{"errorType":"execution","error":"10.1.2.3 is down"}', status=422)
    assert await failure(PrometheusServer(fake.url)) == "Prometheus answered 422 (execution)"
    fake.answer = always("<html>10.1.2.3 is down</html>", status=502)
    assert await failure(PrometheusServer(fake.url)) == "Prometheus answered 502"


async def test_redirects_are_not_followed(fake: FakePrometheus) -> None:
    """Whoever answers cannot send us, and our credentials, elsewhere."""
    async with FakePrometheus() as other:
        fake.answer = always("", status=307, Location=f"{other.url}/api/v1/query?query=up")
        text = await failure(PrometheusServer(fake.url))
        assert text == "Prometheus answered 307, a redirect; redirects are not followed"
        assert not other.requests


async def test_tokens_are_read_at_each_query(fake: FakePrometheus, tmp_path: Path) -> None:
    """A rotated token is taken up at once; a refused one is never repeated."""
    file = tmp_path / "token"
    prometheus = Prometheus(PrometheusServer(fake.url, bearer_token_file=file))
    for token in ("first", "second"):
        await asyncio.to_thread(file.write_text, f"{token}\n")
        await prometheus.query("up{}")
        assert fake.requests[-1].headers["Authorization"] == f"Bearer {token}"
    prometheus.close()
    fake.answer = always("second is wrong", status=401)
    text = await failure(PrometheusServer(fake.url, bearer_token_file=file))
    assert text == "Prometheus refused the credentials (401)"
    assert await failure(PrometheusServer(fake.url)) == "Prometheus asked for credentials (401)"


async def test_a_password_is_sent_as_basic_authentication(
    fake: FakePrometheus, tmp_path: Path
) -> None:
    """The user's name and the file's password make the header."""
    file = tmp_path / "password"
    await asyncio.to_thread(file.write_text, "p\u00e4ss:word\n", encoding="utf-8")
    prometheus = Prometheus(PrometheusServer(fake.url, username="scaler", password_file=file))
    await prometheus.query("up{}")
    prometheus.close()
    assert fake.requests[-1].headers["Authorization"] == "Basic c2NhbGVyOnDDpHNzOndvcmQ="


@pytest.mark.parametrize("content", [None, b"", b"a\nb", b"\xff\xfe"])
async def test_a_token_that_cannot_be_used_is_not_sent(
    fake: FakePrometheus, tmp_path: Path, content: bytes | None
) -> None:
    """Without its token nothing is asked, and no text repeats what the file holds."""
    file = tmp_path / "token"
    if content is not None:
        await asyncio.to_thread(file.write_bytes, content)
    text = await failure(PrometheusServer(fake.url, bearer_token_file=file))
    assert text.startswith("the file with the bearer token for Prometheus ")
    assert not fake.requests


async def test_the_environment_is_ignored(
    fake: FakePrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy of the environment sees a query."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    prometheus = Prometheus(PrometheusServer(fake.url))
    assert await prometheus.query("up{}")
    prometheus.close()


async def test_a_closed_port_is_named_as_such() -> None:
    """The text names the trouble and no address."""
    text = await failure(PrometheusServer(f"http://127.0.0.1:{free_port()}"))
    assert text == "Prometheus refused the connection"


async def test_a_name_without_an_address_is_named_as_such() -> None:
    """A name that cannot be resolved ends like any other failure."""
    text = await failure(PrometheusServer("http://no-such-host.invalid"))
    assert text == "the host name of Prometheus cannot be resolved"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_addresses_are_judged_after_resolution(fake: FakePrometheus, scheme: str) -> None:
    """An allowed name that leads to this host gets no connection, neither plain nor with TLS."""
    rules = AddressRules(hosts=frozenset({"localhost"}))
    address = fake.url.replace("http", scheme)
    text = await failure(PrometheusServer(address), rules)
    assert text == (
        "the address of Prometheus is not one that the server's settings allow (--allow-address)"
    )
    assert not fake.requests


async def test_few_addresses_are_taken_from_triggers(
    fake: FakePrometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes threads. A known one, and those of the settings, are read all the same."""
    monkeypatch.setattr(prometheus, "MAX_SERVERS", 1)
    source = PrometheusSource({"main": PrometheusServer(fake.url)}, RULES)
    known, further = (trigger_of(serverAddress=f"{fake.url}/{path}") for path in "ab")
    with (
        source.borrow(known),
        source.borrow(known),
        source.borrow(trigger_of()),
        pytest.raises(SourceError, match="more than 1 "),
        source.borrow(further),
    ):
        pass
    with source.borrow(further):
        pass


async def test_tls_needs_a_trusted_certificate(tmp_path: Path) -> None:
    """With its authority's certificate a server is trusted, without it is not."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    file = tmp_path / "ca.pem"
    await asyncio.to_thread(authority.cert_pem.write_to_path, file)
    async with FakePrometheus(context) as fake:
        prometheus = Prometheus(PrometheusServer(fake.url, ca_file=file), RULES)
        assert await prometheus.query("up{}")
        prometheus.close()
        fake.requests.clear()
        text = await failure(PrometheusServer(fake.url))
        assert text.startswith("the TLS connection to Prometheus failed")
        missing = PrometheusServer(fake.url, ca_file=tmp_path / "missing.pem")
        assert await failure(missing) == "Prometheus cannot be asked"
        assert not fake.requests


async def test_a_prometheus_that_asks_for_our_certificate(tmp_path: Path) -> None:
    """With one of its authority we are let in; without one, or without its file, we are told."""
    authority, clients = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    clients.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = clients.issue_cert("keda-scaler")
    ca_file, cert_file, key_file = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca_file)
    ours.cert_chain_pems[0].write_to_path(cert_file)
    ours.private_key_pem.write_to_path(key_file)
    async with FakePrometheus(context) as fake:
        bare = PrometheusServer(fake.url, ca_file=ca_file)
        server = replace(bare, cert_file=cert_file, key_file=key_file)
        prometheus = Prometheus(server, RULES)
        assert await prometheus.query("up{}")
        prometheus.close()
        fake.requests.clear()
        assert "Prometheus" in await failure(bare)
        gone = replace(server, cert_file=tmp_path / "missing.pem")
        assert await failure(gone) == "Prometheus cannot be asked"
        assert not fake.requests


async def test_trouble_is_logged_when_it_begins_and_when_it_ends(fake: FakePrometheus) -> None:
    """A Prometheus that fails for hours is one line in the log, and one when it is back."""
    fake.answer = always("", status=500)
    with capture_logs() as logs:
        async with reading(source_of(fake), "models", trigger_of()) as sink:
            await until(lambda: len(sink.reasons) >= 2)
            fake.answer = None
            await until(lambda: sink.listings)
    assert [entry["log_level"] for entry in logs] == ["warning", "info"]
    assert logs[0]["reason"] == "Prometheus answered 500"


async def test_targets_share_a_prometheus_until_the_last_is_done(fake: FakePrometheus) -> None:
    """The connection is shared, and closed with the last target; every poll is recorded."""
    polls: list[tuple[str, str]] = []
    source = PrometheusSource(
        {"main": PrometheusServer(fake.url)},
        RULES,
        record=lambda name, result, _: polls.append((name, result)),
    )
    async with (
        reading(source, "models", trigger_of()) as one,
        reading(source, "models", trigger_of()) as two,
    ):
        await until(lambda: one.listings and two.listings and polls)
        assert len(source._shared) == 1
    assert not source._shared
    assert set(polls) == {("prometheus", "ok")}


@pytest.mark.parametrize(
    ("failures", "longest"), [(0, 66), (1, 1), (2, 2), (4, 8), (5, MAX_BACKOFF_SECONDS), (9999, 15)]
)
def test_pauses_grow_and_have_an_end(failures: int, longest: float) -> None:
    """After failures the pauses double, up to the longest; none is ever zero."""
    pauses = [pause(60, failures) for _ in range(100)]
    assert max(pauses) <= longest
    assert min(pauses) >= longest / 2

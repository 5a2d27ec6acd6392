"""Reports in a real Redis: what several scalers see, and what becomes of it when Redis is away."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from keda_scaler.core import reports as core
from keda_scaler.core.readings import Missing
from keda_scaler.core.reports import (
    MAX_REPORTERS,
    NO_REPORT,
    SILENT_SECONDS,
    YOUNG,
    YOUNG_SECONDS,
    Kept,
    Ledger,
    Report,
    Tally,
    tally,
)
from keda_scaler.errors import ReportsUnavailableError, TooManyReportsError
from keda_scaler.sources import redisreports
from keda_scaler.sources.redisreports import RedisReports
from keda_scaler.sources.redisserver import RedisServer
from prometheus_server import free_port
from redis_server import RedisProcess
from report_for_tests import report

WAIT_SECONDS = 20.0
AWAY = Missing("Redis cannot be reached")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """Run a Redis that saves nothing."""
    running = RedisProcess(tmp_path)
    running.start()
    yield running
    running.kill()


class Scaler:
    """One scaler's keeper, and what it hears of models/llama."""

    def __init__(self, reports: RedisReports) -> None:
        self.reports = reports
        self.heard: list[Tally | Missing] = []
        self._heard = asyncio.Event()
        self.end = reports.watch("models", "llama", self._hear)

    def _hear(self, known: Tally | Missing) -> None:
        self.heard.append(known)
        self._heard.set()

    async def until(self, holds: Callable[[Tally | Missing], object]) -> Tally | Missing:
        """Wait until the newest that was heard is so."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not self.heard or not holds(self.heard[-1]):
                self._heard.clear()
                await self._heard.wait()
        return self.heard[-1]

    async def until_sum(self, waiting: int, running: int = 0) -> Tally:
        known = await self.until(lambda known: sums(known) == (waiting, running))
        assert isinstance(known, Tally)
        return known

    async def until_missing(self, reason: str) -> None:
        await self.until(lambda known: known == Missing(reason))


def agrees(expected: tuple[int, int] | None, known: Tally | Missing) -> bool:
    return sums(known) == expected


def sums(known: Tally | Missing) -> tuple[int, int] | None:
    return (known.waiting, known.running) if isinstance(known, Tally) else None


@contextlib.asynccontextmanager
async def keeper(server: RedisServer) -> AsyncIterator[RedisReports]:
    reports = RedisReports(server)
    yield reports
    await reports.aclose()


@contextlib.asynccontextmanager
async def scaler(url: str) -> AsyncIterator[Scaler]:
    async with keeper(RedisServer(url)) as reports:
        yield Scaler(reports)


async def state_when_possible(reports: RedisReports, *stated: Report) -> None:
    """State what a reporter would state again and again."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(ReportsUnavailableError):
                await reports.state(stated)
                return
            await asyncio.sleep(0.02)


async def test_a_report_to_one_scaler_reaches_both(redis: RedisProcess) -> None:
    """KEDA asks any of them; each hears of it at once, and of what another one took in."""
    async with scaler(redis.url) as one, scaler(redis.url) as other:
        await one.until_missing(NO_REPORT)
        await other.until_missing(NO_REPORT)
        began = time.monotonic()
        await one.reports.state([report(waiting=2, running=1), report("b", name="other")])
        first = await one.until_sum(2, 1)
        second = await other.until_sum(2, 1)
        assert time.monotonic() - began < 2, "no poll was needed"
        assert abs(first.at - second.at) < 2

        await other.reports.state([report("b", waiting=3)])
        await one.until_sum(5, 1)
        await other.until_sum(5, 1)


async def test_who_comes_later_reads_what_is_there(redis: RedisProcess) -> None:
    """A scaler that starts knows at once what was reported to others."""
    async with keeper(RedisServer(redis.url)) as reports:
        await reports.state([report(waiting=4)])
    async with scaler(redis.url) as late:
        await late.until_sum(4)


async def test_expiry_is_heard_without_a_poll(redis: RedisProcess) -> None:
    """Silence becomes unknown when the report ends, and a silent reporter is named."""
    async with scaler(redis.url) as one:
        await one.reports.state([report(waiting=1, ttl=0.2), report("b", ttl=0.5)])
        await one.until_sum(1)
        await one.until_missing("reporter a fell silent")
    after = [sums(known) for known in one.heard if known != Missing(NO_REPORT)]
    assert (0, 0) not in after


async def test_redis_keeps_what_the_ledger_keeps(
    redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script and the ledger in memory are two writings of the same rules."""
    for module in (core, redisreports):
        monkeypatch.setattr(module, "MAX_REPORTERS", 3)
        monkeypatch.setattr(module, "MAX_REPORTED_OF_NAMESPACE", 2)
    dice = random.Random(4)
    ledger = Ledger()
    async with scaler(redis.url) as one:
        for step in range(60):
            ttl = 86400.0  # time is in the other tests
            stated = [
                report(dice.choice("abcd"), dice.choice([0, 0, 7]), dice.choice([0, 2]), ttl, name)
                for name in dice.sample(["llama", "qwen", "phi"], dice.randint(1, 3))
                for _ in range(dice.randint(1, 2))
            ]
            refusal = ""
            try:
                ledger.state(stated, 1000.0 + step)
            except TooManyReportsError as error:
                refusal = str(error)
            if refusal:
                with pytest.raises(TooManyReportsError) as refused:
                    await one.reports.state(stated)
                assert str(refused.value) == refusal
            else:
                await one.reports.state(stated)
            expected = sums(tally(Kept(ledger.statements(("models", "llama")), 1100), 1100))
            await one.until(partial(agrees, expected))


async def test_caps_hold_for_all_scalers_together(
    redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too much is refused as a whole; known ones go on; the forgotten make room."""
    for module in (core, redisreports):
        monkeypatch.setattr(module, "MAX_REPORTED", 2)
    many = [report(f"r{number}", waiting=1) for number in range(MAX_REPORTERS)]
    async with scaler(redis.url) as one, keeper(RedisServer(redis.url)) as other:
        await one.reports.state(many)
        with pytest.raises(TooManyReportsError, match=r"models/llama .* 100 reporters"):
            await other.state([report("r0", waiting=9), report("new")])
        await one.until_sum(100)

        await other.state([report(name="brief", ttl=0.1)])
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                with contextlib.suppress(TooManyReportsError):
                    await other.state([report("r0", waiting=5), report(name="third")])
                    break
                assert sums(one.heard[-1]) == (100, 0)
                await asyncio.sleep(0.02)
        await one.until_sum(104)
        with pytest.raises(TooManyReportsError, match="more than 2 ScaledObjects"):
            await other.state([report(name="fourth")])


async def test_one_namespace_leaves_the_others_room(
    redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own known ones go on, and what is forgotten makes room."""
    for module in (core, redisreports):
        monkeypatch.setattr(module, "MAX_REPORTED_OF_NAMESPACE", 2)
    async with keeper(RedisServer(redis.url)) as reports:
        await reports.state([report(), report(name="brief", ttl=0.1)])
        await reports.state([report(waiting=1), report(namespace="other")])
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                with contextlib.suppress(TooManyReportsError):
                    await reports.state([report(name="third")])
                    break
                await asyncio.sleep(0.02)
        with pytest.raises(TooManyReportsError, match="2 ScaledObjects of namespace models"):
            await reports.state([report(namespace="other"), report(name="fourth")])


async def test_a_restart_with_its_data_loses_nothing(tmp_path: Path) -> None:
    """What was reported is known again; a report in between is refused, and taken up after."""
    redis = RedisProcess(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    redis.start()
    try:
        async with scaler(redis.url) as one, scaler(redis.url) as other:
            await one.reports.state([report(waiting=3, ttl=600)])
            await other.until_sum(3)
            redis.kill()
            with pytest.raises(ReportsUnavailableError, match=r"^Redis cannot be reached$"):
                await one.reports.state([report(waiting=8)])
            other.reports.refresh("models", "llama")
            await other.until(lambda known: known == AWAY)

            redis.start()
            await other.until_sum(3)
            await state_when_possible(one.reports, report(waiting=4, ttl=600))
            await other.until_sum(4)
    finally:
        redis.kill()


async def test_a_restart_without_its_data_is_unknown(redis: RedisProcess) -> None:
    """Lost work is not zero; the next reports mend it without anybody's help."""
    async with scaler(redis.url) as one:
        await one.reports.state([report(waiting=3)])
        await one.until_sum(3)
        redis.kill()
        redis.start()
        await one.until_missing("what reporter a stated is lost")
        assert (0, 0) not in [sums(known) for known in one.heard]
        await state_when_possible(one.reports, report(waiting=4))
        await one.until_sum(4)


async def test_data_lost_under_a_connection_that_holds_is_unknown(redis: RedisProcess) -> None:
    """Nobody says so on the channel: the next poll finds out."""
    async with scaler(redis.url) as one:
        await one.reports.state([report(waiting=3)])
        await one.until_sum(3)
        redis.command("FLUSHALL")
        one.reports.refresh("models", "llama")
        await one.until_missing("what reporter a stated is lost")


async def test_zeros_of_others_prove_nothing_of_what_is_lost(redis: RedisProcess) -> None:
    """A batch states once, for an hour; beside it a gateway always says 0."""
    async with scaler(redis.url) as one:
        await one.reports.state([report("batch", waiting=3, ttl=3600), report("gateway")])
        await one.until_sum(3)
        redis.command("FLUSHALL")
        await state_when_possible(one.reports, report("gateway"))
        await one.until_missing("what reporter batch stated is lost")
        await state_when_possible(one.reports, report("batch"))
        await one.until_sum(0)


async def test_a_redis_that_is_new_to_reports_says_so(redis: RedisProcess) -> None:
    """It and the scaler lost what a batch stated once: the first zero is no proof."""
    async with scaler(redis.url) as one:
        await one.reports.state([report("batch", waiting=3, ttl=3600), report("gateway")])
        await one.until_sum(3)
    redis.kill()
    redis.start()
    async with scaler(redis.url) as one:
        await state_when_possible(one.reports, report("gateway"))
        zero = await one.until_sum(0)
        assert zero.doubt == YOUNG


async def test_a_redis_that_is_old_vouches_for_a_new_scaler(redis: RedisProcess) -> None:
    """Its mark outlives us, and ends with the last report."""
    async with scaler(redis.url) as one:
        await one.reports.state([report("gateway")])
        assert (await one.until_sum(0)).doubt == YOUNG
    mark = "keda-scaler:reports-since"
    began = int(redis.command("HGET", mark, "ms").split(b"\r\n")[1]) - 1000 * YOUNG_SECONDS
    redis.command("HSET", mark, "ms", f"{began:.0f}")
    async with scaler(redis.url) as other:
        await other.reports.state([report("gateway")])
        assert (await other.until_sum(0)).doubt is None
    assert 0 < int(redis.command("PTTL", mark).strip().lstrip(b":")) <= 30_000


async def test_a_redis_that_hangs_confirms_nothing(redis: RedisProcess) -> None:
    """Polls in vain do not renew what was known; a report is refused within seconds."""
    async with scaler(redis.url) as one:
        await one.reports.state([report(waiting=3, ttl=600)])
        await one.until_sum(3)
        redis.hang()
        began = time.monotonic()
        with pytest.raises(ReportsUnavailableError):
            await one.reports.state([report(waiting=0)])
        assert time.monotonic() - began < 5
        one.reports.refresh("models", "llama")
        await one.until(lambda known: known == AWAY)
        assert all(each.at <= began for each in one.heard if isinstance(each, Tally))
        redis.go_on()
        await one.until(lambda known: isinstance(known, Tally))


async def test_expired_while_redis_is_away_is_unknown(redis: RedisProcess) -> None:
    """What a reporter said holds no longer than it said, whether or not Redis can be read."""
    async with scaler(redis.url) as one:
        await one.reports.state([report(waiting=1, ttl=0.5), report("b", ttl=600)])
        await one.until_sum(1)
        redis.kill()
        await one.until_missing("reporter a fell silent")


async def test_without_redis_from_the_start(tmp_path: Path) -> None:
    """It says so, and works once Redis is there."""
    redis = RedisProcess(tmp_path)
    with capture_logs() as logs:
        async with scaler(redis.url) as one:
            await one.until(lambda known: known == AWAY)
            redis.start()
            try:
                await one.until_missing(NO_REPORT)
                await state_when_possible(one.reports, report(waiting=1))
                await one.until_sum(1)
            finally:
                redis.kill()
    reads = [log["works"] for log in logs if log["event"] == "redis" and log["what"] == "read"]
    assert reads[:2] == [False, True], "once each, not per attempt"


async def test_what_is_not_ours_is_unknown(redis: RedisProcess) -> None:
    """A field that cannot be read might be work; the next report puts it away."""
    key = "keda-scaler:reports:models/llama"
    redis.command("HSET", key, "a", "garbage")
    async with scaler(redis.url) as one:
        await one.until_missing("Redis answers with an error")
        await one.reports.state([report(waiting=1)])
        await one.until_sum(1)
        redis.command("DEL", key)
        redis.command("SET", key, "x")
        with pytest.raises(ReportsUnavailableError, match=r"^Redis answers with an error$"):
            await one.reports.state([report(waiting=1)])


async def test_nothing_is_kept_for_ever(redis: RedisProcess) -> None:
    """Every key has an end, so that Redis is empty when nobody reports."""
    async with keeper(RedisServer(redis.url)) as reports:
        await reports.state([report(ttl=0.1), report(ttl=0.1, name="busy", running=1)])
    ttl = int(redis.command("PTTL", "keda-scaler:reports:models/busy").strip().lstrip(b":"))
    assert 0 < ttl <= (SILENT_SECONDS + 0.1) * 1000
    for index in ("keda-scaler:reports", "keda-scaler:reports:models"):
        last = int(redis.command("PTTL", index).strip().lstrip(b":"))
        assert 0 < last <= (SILENT_SECONDS + 0.1) * 1000
    async with asyncio.timeout(WAIT_SECONDS):
        while redis.command("EXISTS", "keda-scaler:reports:models/llama") != b":0\r\n":
            await asyncio.sleep(0.02)


async def test_who_stops_to_watch_hears_no_more(redis: RedisProcess) -> None:
    """Nor is it read any more."""
    async with scaler(redis.url) as one, scaler(redis.url) as other:
        await one.until_missing(NO_REPORT)
        await other.until_missing(NO_REPORT)
        one.end()
        before = len(one.heard)
        await one.reports.state([report(waiting=1)])
        await other.until_sum(1)
        assert len(one.heard) == before
        assert not one.reports._known


async def test_a_password_from_a_file_is_read_anew(tmp_path: Path) -> None:
    """A rotated password is taken up; it is in no error and in no log."""
    file = tmp_path / "password"
    redis = RedisProcess(tmp_path, "--requirepass", "s3cret-one")
    redis.start()
    try:
        with capture_logs() as logs:
            async with keeper(RedisServer(redis.url, file)) as reports:
                for content in (None, "wr0ng", "s3cret-one"):
                    if content is not None:
                        file.write_text(f"{content}\n")
                    if content == "s3cret-one":
                        await reports.state([report(waiting=1)])
                    else:
                        with pytest.raises(ReportsUnavailableError):
                            await reports.state([report(waiting=1)])
    finally:
        redis.kill()
    assert "s3cret" not in str(logs)
    assert "wr0ng" not in str(logs)


async def test_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    """rediss:// trusts the certificates named, and only those."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    tls_port = free_port()
    redis = RedisProcess(
        tmp_path,
        *(
            "--tls-cert-file",
            str(tmp_path / "cert.pem"),
            "--tls-key-file",
            str(tmp_path / "key.pem"),
        ),
        *("--tls-auth-clients", "no", "--tls-port", str(tls_port)),
    )
    redis.start()
    url = f"rediss://127.0.0.1:{tls_port}/1"
    try:
        async with keeper(RedisServer(url, ca_file=tmp_path / "ca.pem")) as reports:
            await state_when_possible(reports, report(waiting=1))  # a handshake may take its time
        async with keeper(RedisServer(url)) as reports:
            with pytest.raises(ReportsUnavailableError):
                await reports.state([report(waiting=1)])
    finally:
        redis.kill()


async def test_reports_are_pushed(redis: RedisProcess) -> None:
    """Nothing polls: on however busy a machine, some of a hundred are heard within 20 ms."""
    async with scaler(redis.url) as one, scaler(redis.url) as other:
        await other.until_missing(NO_REPORT)
        took = []
        for number in range(1, 101):
            began = time.perf_counter()
            await one.reports.state([report(waiting=number)])
            await other.until_sum(number)
            took.append(time.perf_counter() - began)
    assert sorted(took)[9] < 0.02


class Primary:
    """The address of whichever server is the primary, as a Service has one."""

    def __init__(self, server: RedisProcess) -> None:
        self.server = server
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Take connections while inside. Those that are open stay with the server they have."""
        listener = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            listener.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.server.port)
        with contextlib.suppress(asyncio.CancelledError):  # at the end of the test
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


async def test_follows_the_address_when_another_server_becomes_the_primary(
    redis: RedisProcess, tmp_path: Path
) -> None:
    """The one before goes on as a replica, which answers and takes no reports."""
    (tmp_path / "other").mkdir()
    other, primary = RedisProcess(tmp_path / "other"), Primary(redis)
    other.start()
    try:
        async with primary.serving(), scaler(primary.url) as one:
            await one.reports.state([report(waiting=1)])
            await one.until_sum(1)

            redis.command("REPLICAOF", "127.0.0.1", str(other.port))
            primary.server = other
            await state_when_possible(one.reports, report(waiting=2))
            await one.until_sum(2)
            await one.reports.state([report(waiting=3)])
            await one.until_sum(3)
    finally:
        other.kill()

"""Reports that several scalers share, in Redis or Valkey.

Theory of operation. One hash per ScaledObject, one field per reporter: waiting, running, and when
it expires by the server's clock, so that scalers whose clocks differ agree. A script takes reports
in, all or none, and names on a channel the ScaledObjects that changed. Every scaler listens there,
and reads what it is told of, what a poll asks to confirm, and everything after each (re)connection,
because a channel does not repeat itself. What is read is the whole truth: nothing is carried over.

A server that cannot be read confirms nothing, so that what is known goes stale. A hash is kept or
lost as a whole (restart, eviction, failover): losing it is unknown, never zero. Who began after it
was lost sees by a mark that the server is new to reports.
"""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, cast

import redis.exceptions
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from keda_scaler.core.reports import (
    MAX_REPORTED,
    MAX_REPORTED_OF_NAMESPACE,
    MAX_REPORTERS,
    SILENT_SECONDS,
    Kept,
    Report,
    ScaledObject,
    Statement,
    Statements,
    carried,
    too_many_reported,
    too_many_reported_of,
    too_many_reporters,
)
from keda_scaler.errors import ReportsUnavailableError
from keda_scaler.forever import keep
from keda_scaler.sources.redisserver import ANSWER_SECONDS, RedisServer
from keda_scaler.sources.reports import Changed, Watchers
from keda_scaler.sources.sink import Clock

LISTEN_SECONDS = 2.0
"""Silence on the channel after which the server is asked whether it is still there."""

MAX_BACKOFF_SECONDS = 1.0
"""Longest pause after failures. A scaler is one client of few, and work may be waiting."""

_FIRST_BACKOFF_SECONDS = 0.05

_CANCEL_SECONDS = 0.1
"""How long a task may take to end before it is told so again."""

_READ_AT_ONCE = 20
"""Hashes that are read in one go: other tasks run in between. With the most reporters, these take
30 ms."""

_INDEX = "keda-scaler:reports"
"""Names every hash, with the time when it expires; there is one of each namespace beside it. Also
the name of the channel."""

_SINCE = "keda-scaler:reports-since"
"""The mark: when the first report was taken in, in milliseconds by the server's clock. It ends with
the last report."""

_FAILURES = (redis.exceptions.RedisError, OSError)

_SAID = (
    redis.exceptions.ResponseError,
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
)
"""Errors in the server's own words."""

_UNREACHABLE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
"""Of those, where there is no answer. TimeoutError is an OSError."""

_log = structlog.get_logger(__name__)

_STATE = """
-- KEYS: the index, the mark, one hash per ScaledObject, and the index of the namespace of each.
-- ARGV: the message for the channel, the caps on reporters, on ScaledObjects and on those of a
-- namespace, how long silence is remembered in ms; then per hash the number of its reports, and of
-- each: reporter, waiting, running, ms until it expires.
local index, mark, message, count = KEYS[1], KEYS[2], ARGV[1], #KEYS / 2 - 1
local max_reporters, max_reported = tonumber(ARGV[2]), tonumber(ARGV[3])
local max_of_namespace, silent = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function forgotten_at(waiting, running, expires)
  if waiting == '0' and running == '0' then return tonumber(expires) end
  return tonumber(expires) + silent
end

local function end_with_last_of(index_of, key)
  redis.call('PEXPIREAT', key, redis.call('ZRANGE', index_of, -1, -1, 'WITHSCORES')[2])
end

redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
local reported, arg, changes = redis.call('ZCARD', index), 6, {}
local by_namespace, crowded = {}, nil
for i = 3, count + 2 do
  local known, size, last, gone, stated = {}, 0, 0, {}, {}
  local fields = redis.call('HGETALL', KEYS[i])
  for j = 1, #fields, 2 do
    local waiting, running, expires = fields[j + 1]:match('^(%d+) (%d+) (%d+)$')
    local forgotten = expires and forgotten_at(waiting, running, expires) or 0
    if forgotten > now then
      known[fields[j]] = forgotten
      size = size + 1
    else
      gone[#gone + 1] = fields[j]
    end
  end
  local reports = tonumber(ARGV[arg])
  for j = 0, reports - 1 do
    local reporter, waiting, running, ttl = unpack(ARGV, arg + j * 4 + 1, arg + j * 4 + 4)
    local expires = string.format('%.0f', now + ttl)
    if not known[reporter] then size = size + 1 end
    known[reporter] = forgotten_at(waiting, running, expires)
    stated[#stated + 1] = reporter
    stated[#stated + 1] = waiting .. ' ' .. running .. ' ' .. expires
  end
  if size > max_reporters then return {'reporters', i - 3} end
  if not redis.call('ZSCORE', index, KEYS[i]) then
    local namespace = KEYS[i + count]
    redis.call('ZREMRANGEBYSCORE', namespace, '-inf', now)
    by_namespace[namespace] = (by_namespace[namespace] or redis.call('ZCARD', namespace)) + 1
    if by_namespace[namespace] > max_of_namespace then crowded = crowded or i - 3 end
    reported = reported + 1
  end
  for _, forgotten in pairs(known) do last = math.max(last, forgotten) end
  changes[i] = {gone, stated, string.format('%.0f', last)}
  arg = arg + 1 + reports * 4
end
if reported > max_reported then return {'reported'} end
if crowded then return {'crowded', crowded} end

if #redis.call('HGETALL', mark) == 0 then
  redis.call('HSET', mark, 'ms', string.format('%.0f', now))
end
for i = 3, count + 2 do
  local gone, stated, last = unpack(changes[i])
  if #gone > 0 then redis.call('HDEL', KEYS[i], unpack(gone)) end
  redis.call('HSET', KEYS[i], unpack(stated))
  redis.call('PEXPIREAT', KEYS[i], last)
  redis.call('ZADD', index, last, KEYS[i])
  redis.call('ZADD', KEYS[i + count], last, KEYS[i])
  end_with_last_of(KEYS[i + count], KEYS[i + count])
end
end_with_last_of(index, index)
end_with_last_of(index, mark)
redis.call('PUBLISH', index, message)
return {}
"""


class RedisReports:
    """Keeps reports in Redis. It connects when it is first used."""

    def __init__(self, server: RedisServer, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._redis = Redis.from_pool(server.pool())
        self._state = self._redis.register_script(_STATE)
        self._known: dict[ScaledObject, Kept] = {}
        """What was read of those that are watched."""
        self._watchers = Watchers(self._known.get, clock)
        self._due: dict[ScaledObject, None] = {}
        """What is to be read, in order."""
        self._is_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._reads, self._writes, self._listens = map(_Health, ("read", "write", "listen"))

    async def state(self, reports: Sequence[Report]) -> None:
        """See `Reports.state`."""
        by_object: dict[ScaledObject, dict[str, Report]] = {}
        for report in reports:
            by_object.setdefault(report.about, {})[report.reporter] = report
        abouts = list(by_object)
        caps = (MAX_REPORTERS, MAX_REPORTED, MAX_REPORTED_OF_NAMESPACE)
        message = "\n".join(f"{ns}/{name}" for ns, name in abouts)
        args: list[str | int] = [message, *caps, round(SILENT_SECONDS * 1000)]
        for each in by_object.values():
            args.append(len(each))
            for report in each.values():
                expiry = round(report.ttl_seconds * 1000)
                args += [report.reporter, report.waiting, report.running, expiry]
        keys = [
            _INDEX,
            _SINCE,
            *map(_key, abouts),
            *(f"{_INDEX}:{namespace}" for namespace, _ in abouts),
        ]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                refused = cast("list[Any]", await self._state(keys=keys, args=args))
        except _FAILURES as error:
            self._writes.note(error)
            if _is_read_only(error):
                await self._reconnect()
            raise ReportsUnavailableError(_reason(error)) from error
        self._writes.note(None)
        match refused:
            case [b"reporters", int(number)]:
                raise too_many_reporters(abouts[number])
            case [b"reported"]:
                raise too_many_reported()
            case [b"crowded", int(number)]:
                raise too_many_reported_of(abouts[number][0])
            case _:
                return

    def watch(self, namespace: str, name: str, changed: Changed) -> Callable[[], None]:
        """See `Reports.watch`."""
        about = (namespace, name)
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(keep("redis", self._keep_listening), name="listens to Redis"),
                asyncio.create_task(keep("redis", self._keep_reading), name="reads Redis"),
            ]
        stop = self._watchers.add(about, changed)
        self._watchers.tell(about)
        self._ask([about])

        def end() -> None:
            stop()
            if about not in self._watchers:
                self._known.pop(about, None)
                self._due.pop(about, None)

        return end

    def refresh(self, namespace: str, name: str) -> None:
        """See `Reports.refresh`."""
        self._ask([(namespace, name)])

    async def aclose(self) -> None:
        """See `Reports.aclose`."""
        self._watchers.clear()
        while pending := [task for task in self._tasks if not task.done()]:
            for task in pending:
                task.cancel()
            # Until Python 3.12 asyncio.wait_for, which redis uses, may swallow a cancellation.
            await asyncio.wait(pending, timeout=_CANCEL_SECONDS)
        with contextlib.suppress(*_FAILURES):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._redis.aclose()

    async def _reconnect(self) -> None:
        """Leave a server that is no longer the primary; its address may lead to that by now."""
        with contextlib.suppress(*_FAILURES):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._redis.connection_pool.disconnect()

    def _ask(self, abouts: Iterable[ScaledObject]) -> None:
        """Have something read soon, if it is watched."""
        self._due |= {about: None for about in abouts if about in self._watchers}
        if self._due:
            self._is_due.set()

    async def _keep_reading(self) -> None:
        failures = 0
        while True:
            await self._is_due.wait()
            abouts = list(islice(self._due, _READ_AT_ONCE))
            for about in abouts:
                del self._due[about]
            if not self._due:
                self._is_due.clear()
            try:
                await self._read(abouts)
            except Exception as error:  # noqa: BLE001  # the task must not end
                self._reads.note(error)
                self._ask(abouts)
                for about in abouts:
                    self._watchers.tell_problem(about, _reason(error))
                failures += 1
                await asyncio.sleep(_pause(failures))
            else:
                self._reads.note(None)
                failures = 0

    async def _read(self, abouts: Sequence[ScaledObject]) -> None:
        asked_at = self._clock()
        async with asyncio.timeout(ANSWER_SECONDS), self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(_SINCE)
            for about in abouts:
                pipe.hgetall(_key(about))
            (seconds, microseconds), mark, *hashes = await pipe.execute()
        ahead = seconds + microseconds / 1e6 - asked_at
        since = int(mark[b"ms"]) / 1000 - ahead if mark else asked_at
        read = [_statements(fields, ahead) for fields in hashes]
        for about, statements in zip(abouts, read, strict=True):
            if about in self._watchers:
                before = self._known[about].statements if about in self._known else {}
                self._known[about] = Kept(carried(before, statements, asked_at), asked_at, since)
        await self._watchers.tell_all(abouts)

    async def _keep_listening(self) -> None:
        failures = 0
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await channel.subscribe(_INDEX)
                        while await channel.get_message(timeout=ANSWER_SECONDS) is None:
                            pass
                    self._listens.note(None)
                    self._ask(self._watchers)
                    failures = 0
                    await self._listen(channel)
            except Exception as error:  # noqa: BLE001  # the task must not end
                self._listens.note(error)
            failures += 1
            await asyncio.sleep(_pause(failures))

    async def _listen(self, channel: PubSub) -> None:
        """Have everything read that is named on the channel, until the connection is lost."""
        while True:
            message = await channel.get_message(timeout=LISTEN_SECONDS)
            if message is None:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await channel.ping()
                message = await channel.get_message(timeout=ANSWER_SECONDS)
                if message is None:
                    raise TimeoutError("no answer on the channel")
            if message["type"] == "message":
                named = message["data"].decode(errors="replace").split("\n")
                self._ask((ns, name) for ns, _, name in (each.partition("/") for each in named))


class _Health:
    """Logs when something begins to fail, and when it works again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._works = True

    def note(self, error: Exception | None) -> None:
        """Take the latest outcome; None: it worked."""
        did, self._works = self._works, error is None
        if did and error is not None:
            _log.error("redis", what=self._what, works=False, error=_logged(error))
        elif not did and error is None:
            _log.info("redis", what=self._what, works=True)


def _key(about: ScaledObject) -> str:
    return f"{_INDEX}:{about[0]}/{about[1]}"


def _statements(fields: dict[bytes, bytes], ahead: float) -> Statements:
    """Read a hash. `ahead`: the server's clock less ours.

    Raises:
        ValueError: when it holds what is not ours. Leaving that out could make work look like none.

    """
    found = {}
    for reporter, stated in fields.items():
        waiting, running, expires = map(int, stated.split())
        found[reporter.decode()] = Statement(waiting, running, expires / 1000 - ahead)
    return found


def _reason(error: Exception) -> str:
    """Say what is wrong, in an answer and perhaps in an Event: the log has the rest."""
    if isinstance(error, _UNREACHABLE):
        return "Redis cannot be reached"
    return "Redis answers with an error"


def _logged(error: Exception) -> str:
    """Say what is wrong for the log: of what the server says the code, for it may repeat us."""
    kind, text = type(error).__name__, str(error)
    if not isinstance(error, _SAID):
        return text or kind
    code = text.partition(" ")[0]
    return f"{kind} {code}" if re.fullmatch("[A-Z]{3,20}", code) else kind


def _is_read_only(error: Exception) -> bool:
    """Whether the server is a replica; up to version 6 its scripts say so in their own words."""
    return isinstance(error, redis.exceptions.ReadOnlyError) or "-READONLY" in str(error)


def _pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubled each time, with jitter."""
    doubled = _FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 16)
    return random.uniform(0.5, 1.0) * min(doubled, MAX_BACKOFF_SECONDS)

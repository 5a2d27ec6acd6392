"""Readings through Prometheus.

Targets share the connections to a Prometheus; those that want it read equally often share its polls
as well.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.trigger import Trigger
from keda_scaler.errors import SourceError
from keda_scaler.sources.promapi import Prometheus, PrometheusServer
from keda_scaler.sources.promrounds import Rounds, Target
from keda_scaler.sources.sink import Clock, Recorder, Sink

__all__ = ["PrometheusServer", "PrometheusSource"]

MAX_ADDRESSES = 50
"""Prometheus servers that triggers name by `serverAddress`: each takes threads and connections, and
a path makes another one of the same host."""


class PrometheusSource:
    """Reads targets through the Prometheus that each one's trigger names."""

    def __init__(
        self,
        servers: Mapping[str, PrometheusServer],
        rules: AddressRules,
        *,
        clock: Clock = time.monotonic,
        wall: Callable[[], float] = time.time,
        record: Recorder | None = None,
    ) -> None:
        """Take the servers by the names that triggers use, and the rules for `serverAddress`.

        `record` is told of every poll: `prometheus`, `ok` or `error`, and its seconds.
        """
        self._servers = servers
        self._rules = rules
        self._clock = clock
        self._wall = wall
        self._record = record
        self._shared: dict[tuple[PrometheusServer, AddressRules | None], _Shared] = {}

    async def run(self, namespace: str, trigger: Trigger, sink: Sink) -> None:
        """Poll for one target until cancelled. Failures are told to the sink.

        Raises:
            SourceError: when too many servers are read already.

        """
        with self._borrow(trigger) as shared, self._joined(shared, namespace, trigger, sink):
            await asyncio.Event().wait()

    async def aclose(self) -> None:
        """End all queries. Runs that are not cancelled yet fail from now on."""
        for shared in self._shared.values():
            shared.prometheus.close()

    @contextmanager
    def borrow(self, trigger: Trigger) -> Iterator[Prometheus]:
        """Lend the Prometheus of a trigger. Targets share it; the last one closes it.

        Raises:
            SourceError: when too many servers are read already.

        """
        with self._borrow(trigger) as shared:
            yield shared.prometheus

    @contextmanager
    def _borrow(self, trigger: Trigger) -> "Iterator[_Shared]":
        if trigger.prometheus is not None:
            server, rules = self._servers[trigger.prometheus], None
        else:
            assert trigger.server_address is not None, "a trigger has one place to read from"
            server, rules = PrometheusServer(trigger.server_address), self._rules
        key = (server, rules)
        shared = self._shared.get(key)
        if shared is None:
            by_address = sum(each is not None for _, each in self._shared)
            if rules is not None and by_address >= MAX_ADDRESSES:
                raise SourceError(f"triggers have {MAX_ADDRESSES} other values of serverAddress")
            shared = _Shared(Prometheus(server, rules, clock=self._clock, wall=self._wall))
            self._shared[key] = shared
        shared.borrowers += 1
        try:
            yield shared
        finally:
            shared.borrowers -= 1
            if not shared.borrowers:
                del self._shared[key]
                shared.prometheus.close()

    @contextmanager
    def _joined(
        self, shared: "_Shared", namespace: str, trigger: Trigger, sink: Sink
    ) -> Iterator[None]:
        """Have a target's namespace read together with those of others."""
        alone = namespace if trigger.queries else None
        key = (trigger.poll_seconds, trigger.stale_after, alone)
        rounds = shared.rounds.get(key)
        if rounds is None:
            rounds = Rounds(shared.prometheus, trigger, self._clock, self._record)
            shared.rounds[key] = rounds
        with rounds.joined(Target(namespace, trigger, sink)):
            try:
                yield
            finally:
                if len(rounds) == 1:
                    del shared.rounds[key]


@dataclass(slots=True)
class _Shared:
    prometheus: Prometheus
    borrowers: int = 0
    rounds: dict[tuple[float, float, str | None], Rounds] = field(default_factory=dict)
    """By `pollSeconds`, `staleSeconds`, and where there are own queries by namespace: they may be
    slow, and no other namespace has the same."""

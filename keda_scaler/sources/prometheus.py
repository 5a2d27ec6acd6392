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

MAX_SERVERS = 200
"""Servers that triggers name by their address; each has threads of its own, so that one that hangs
delays no other."""

__all__ = ["PrometheusServer", "PrometheusSource"]


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
        """Poll for one target until cancelled. Failures are told to the sink."""
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
            SourceError: when there are too many.

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
            of_triggers = sum(given is not None for _, given in self._shared)
            if rules is not None and of_triggers >= MAX_SERVERS:
                raise SourceError(
                    f"triggers name more than {MAX_SERVERS} addresses of Prometheus servers; "
                    "name this one in the server's settings (--prometheus)"
                )
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

"""Gateways: what stands in front of the engines and knows of requests while no replica runs.

A gateway is read directly, pod by pod, or through Prometheus. Either way one read serves all
targets behind it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from ipaddress import ip_address

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.names import QUERY
from keda_scaler.core.readings import Missing, Replica
from keda_scaler.core.trigger import Trigger
from keda_scaler.core.values import is_address
from keda_scaler.gateways import GATEWAYS
from keda_scaler.gateways.gateway import Scope
from keda_scaler.sources.gatewaypages import GatewayPages, Pods
from keda_scaler.sources.gatewayqueries import Queries
from keda_scaler.sources.kubernetes import Endpoint, Listing, ServiceDirectory, judged
from keda_scaler.sources.prometheus import PrometheusSource
from keda_scaler.sources.sink import Clock, Recorder, WakeSink


class GatewaysSource:
    """Reads the gateways and the queries that triggers wake from."""

    def __init__(
        self,
        rules: AddressRules,
        directory: ServiceDirectory,
        prometheus: PrometheusSource,
        record: Recorder,
        clock: Clock = time.monotonic,
    ) -> None:
        """`prometheus` lends its connections; `record` is told of every poll, as `gateway`."""
        self._rules = rules
        self._directory = directory
        self._prometheus = prometheus
        self._clock = clock
        self._pages = GatewayPages(rules, record, clock)
        self._queries = Queries(record, clock)

    async def run(self, namespace: str, name: str, trigger: Trigger, sink: WakeSink) -> None:
        """Read for one target until cancelled."""
        if trigger.wake_service is not None:
            await self._run_pods(namespace, name, trigger, sink)
            return
        with self._prometheus.borrow(trigger) as prometheus:
            if trigger.wake_from == QUERY:
                following = self._queries.query(prometheus, namespace, trigger, sink)
            else:
                scope = Scope.of(namespace, name, trigger, trusted=False)
                gateway = GATEWAYS[str(trigger.wake_from)]
                following = self._queries.gateway(prometheus, gateway, scope, trigger, sink)
            with following:
                await asyncio.Event().wait()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._queries.aclose()
        await self._pages.aclose()

    async def _run_pods(self, namespace: str, name: str, trigger: Trigger, sink: WakeSink) -> None:
        gateway = GATEWAYS[str(trigger.wake_from)]
        host = str(trigger.wake_service)
        service, _, elsewhere = (host, "", "") if is_address(host) else host.partition(".")
        trusted = not is_address(host) and elsewhere in {"", namespace}
        scope = Scope.of(namespace, name, trigger, trusted=trusted)
        path = trigger.wake_path or gateway.path
        with Pods(self._pages, gateway, scope, trigger, sink) as pods:
            if is_address(host):
                listings = self._address(host, path, trigger)
            else:
                listings = self._service(service, elsewhere or namespace, path, trigger)
            async with aclosing(listings):
                async for listing in listings:
                    pods.listed(listing)

    async def _address(
        self, host: str, path: str, trigger: Trigger
    ) -> AsyncGenerator[Listing | Missing, None]:
        """List one page at an address."""
        shown = f"[{host}]" if ":" in host else host
        endpoint = Endpoint(Replica(host), f"http://{shown}:{trigger.wake_port}{path}")
        while True:
            if self._rules.holds(ip_address(host)):
                yield Listing((endpoint,), self._clock())
            else:
                yield Missing(f"the address {host} is not allowed")
            await asyncio.sleep(trigger.poll_seconds)

    async def _service(
        self, service: str, namespace: str, path: str, trigger: Trigger
    ) -> AsyncGenerator[Listing | Missing, None]:
        """List the pages of a Service's pods: at once, when they change, and at every poll."""
        host = str(trigger.wake_service)

        def allows(address: str) -> bool:
            if "." in host:
                return self._rules.allows_resolved(host, address)
            return self._rules.allows_listed(address)

        async with self._directory.follow(namespace, trigger.stale_after) as view:
            while True:
                if view.was_tried:
                    yield judged(view.endpoints(service, trigger.wake_port, path), allows)
                await view.changed(min(trigger.poll_seconds, trigger.stale_after / 3))

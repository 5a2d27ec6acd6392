"""What is asked of a Prometheus: every selector of every query is of the target's namespace."""

import asyncio
import re
from collections.abc import Iterable
from itertools import chain

import promql_parser
import pytest

from keda_scaler.core.matchers import taken
from keda_scaler.core.names import QUERY
from keda_scaler.core.trigger import Accepts, parse_trigger
from keda_scaler.gateways import GATEWAYS
from keda_scaler.sources.gateways import GatewaysSource
from keda_scaler.sources.kubernetes import ServiceDirectory
from keda_scaler.sources.prometheus import PrometheusServer, PrometheusSource
from prometheus_fake import FakePrometheus
from prometheus_sink import RULES, RememberingSink, until
from wake_fixtures import WakeNotebook

HOSTILE = ["models", '"} or up{x="', 'a",namespace=~".*', "a\nb", ".*", "models|other", "\\"]

ABOUT_SCRAPES = (
    r"max\(timestamp\(up\)\) or label_replace\(max\(timestamp\(up offset \d+s\)\), [^)]*\)",
    r'max by \(job, instance\) \(up\{job=~"[^}]*\} .*',
)
"""Queries that are of no namespace, and tell nothing but whether anything is scraped, and whether
what a target's own series came from still is."""

EVERYTHING = {
    "pollSeconds": "1",
    "staleSeconds": "5",
    "targetLatencySeconds": "1",
    "targetGpuUtilization": "85%",
    "selector": 'job=~".*",pod!="x"',
    "model": 'llama"} or up{x="',
}
"""Makes a target ask for all that there is."""


OTHERS = ("other", "", "b", "modelsX", "Xmodels", "mode.s", "x")


def values(namespace: str) -> tuple[str, ...]:
    """Give what labels say that are about a namespace: its name, or what Envoy calls a cluster."""
    return (
        namespace,
        f"httproute/{namespace}/route/rule/0",
        f"{namespace}/service/80",
        f"outbound|80||service.{namespace}.svc.cluster.local",
    )


def loose(queries: Iterable[str], namespace: str) -> list[str]:
    """Give the selectors that would find series of another namespace, or of none."""
    found: list[str] = []

    def visit(node: promql_parser.Expr) -> None:
        if not isinstance(node, promql_parser.VectorSelector):
            return
        own = [taken(each) for each in node.matchers.matchers]
        bound = any(
            any(each.matches({each.name: value}) for value in values(namespace))
            and not any(each.matches({each.name: value}) for value in chain(*map(values, OTHERS)))
            for each in own
        )
        if not bound or node.matchers.or_matchers:
            found.append(str(node))

    for query in queries:
        if not any(re.fullmatch(known, query) for known in ABOUT_SCRAPES):
            promql_parser.walk(promql_parser.parse(query), visit)
    return found


async def asked(fake: FakePrometheus, namespace: str, keys: dict[str, str]) -> list[str]:
    """Follow a target until it was told something by each of its sources; give the queries."""
    prometheus = PrometheusSource({"main": PrometheusServer(fake.url)}, RULES)
    gateways = GatewaysSource(RULES, ServiceDirectory(), prometheus, lambda *_: None)
    accepts = Accepts(frozenset({"main"}), RULES)
    trigger = parse_trigger({"prometheus": "main"} | EVERYTHING | keys, accepts)
    sink, notebook = RememberingSink(), WakeNotebook()
    tasks = [asyncio.create_task(prometheus.run(namespace, trigger, sink))]
    if trigger.wake_from:
        tasks.append(asyncio.create_task(gateways.run(namespace, "name", trigger, notebook)))
    try:
        await until(lambda: sink.listings or sink.reasons)
        await until(lambda: notebook.told or not trigger.wake_from)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await gateways.aclose()
        await prometheus.aclose()
    return fake.queries


@pytest.mark.parametrize("namespace", HOSTILE)
async def test_no_query_about_replicas_is_loose(namespace: str) -> None:
    """Engines, latencies, GPUs, scrapes and the look-back, whatever the namespace is called."""
    async with FakePrometheus() as fake:
        queries = await asked(fake, namespace, {})

    assert len(queries) > 8
    assert loose(queries, namespace) == []


@pytest.mark.parametrize("namespace", HOSTILE[:3])
@pytest.mark.parametrize("gateway", sorted(GATEWAYS))
async def test_no_query_about_a_gateway_is_loose(gateway: str, namespace: str) -> None:
    """A selector of the trigger narrows, and never widens."""
    keys = {"wakeFrom": gateway, "wakeSelector": 'namespace=~".*",x=~"|.*"'}
    async with FakePrometheus() as fake:
        queries = await asked(fake, namespace, keys)

    assert loose(queries, namespace) == []


@pytest.mark.parametrize("namespace", HOSTILE)
@pytest.mark.parametrize(
    "query",
    [
        'sum({__name__=~".+"}) or vector(0)',
        'label_replace(up, "namespace", "other", "", "")',
        'count_values("namespace", up) or absent(up{job="a"} offset 1h)',
        "max_over_time((sum by (namespace) (rate(up[5m] @ end())))[1h:1m])",
        'up{"namespace"=~".*"} * on (namespace) group_left () {"a name", "a label"="}"}',
        "up unless on () absent_over_time({job=~'.+'}[1d]) and -up ^ up",
        'up # {namespace="models"}',
        'histogram_quantile(0.9, sum(rate({__name__=~`.*_bucket`}[5m])) by (le, "namespace"))',
        "topk(5, sort_desc(up > bool scalar(up))) % 2",
    ],
)
async def test_no_own_query_is_loose(query: str, namespace: str) -> None:
    """Aggregations, joins, subqueries, quoted names, comments: each selector is bound."""
    async with FakePrometheus() as fake:
        own = {"engine": "vllm", "concurrencyQuery": query, "latencyQuery": query}
        queries = await asked(fake, namespace, {"wakeFrom": QUERY, "wakeQuery": query} | own)

    assert loose([query], namespace), "as it is written it would reach everything"
    assert loose(queries, namespace) == []

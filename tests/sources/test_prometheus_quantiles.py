"""Our quantile beside Prometheus' own, on the same buckets."""

import asyncio
import math
import random

import aiohttp
import pytest

from keda_scaler.core.windows import quantile
from metrics_page import Page
from prometheus_server import PrometheusProcess

BOUNDS = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 10.0, math.inf)
SHARES = (0.01, 0.5, 0.9, 0.95, 0.99, 0.999)
WAIT_SECONDS = 30.0


def histograms(count: int) -> list[list[tuple[float, float]]]:
    """Draw histograms: empty buckets, full ones, and some with much beyond the last bound."""
    chance = random.Random(7)
    drawn = []
    for _ in range(count):
        total, buckets = 0.0, []
        for bound in BOUNDS:
            total += chance.choice((0, 0, 1, 3, 50, 1000))
            buckets.append((bound, total))
        drawn.append(buckets)
    return drawn


async def ask(url: str, query: str) -> dict[int, float]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/api/v1/query", params={"query": query}) as answer,
    ):
        result = (await answer.json())["data"]["result"]
    return {int(series["metric"]["id"]): float(series["value"][1]) for series in result}


async def scraped(prometheus: PrometheusProcess, count: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                if len(await ask(prometheus.url, 'h_bucket{le="+Inf"}')) == count:
                    return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)


@pytest.mark.xdist_group("prometheus")
async def test_quantiles_are_those_of_prometheus(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Interpolated in the same way, pinned to the last bound in the same way."""
    drawn = histograms(40)
    lines = [
        f'h_bucket{{id="{number}",le="{"+Inf" if math.isinf(bound) else bound}"}} {count}'
        for number, buckets in enumerate(drawn)
        for bound, count in buckets
    ]
    page = Page("\n".join(["# TYPE h histogram", *lines, ""]))
    await page.start()
    prometheus = PrometheusProcess(tmp_path_factory.mktemp("prometheus"))
    try:
        prometheus.scrape("pods", "default", {page.address: "a"})
        await scraped(prometheus, len(drawn))
        for share in SHARES:
            theirs = await ask(prometheus.url, f"histogram_quantile({share}, h_bucket)")
            for number, buckets in enumerate(drawn):
                ours = quantile(share, buckets)
                if ours is None:
                    assert math.isnan(theirs[number])
                else:
                    assert ours.seconds == pytest.approx(theirs[number], rel=1e-12)
    finally:
        prometheus.stop()
        await page.stop()

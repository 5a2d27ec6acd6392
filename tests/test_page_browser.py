"""The page in a real Chromium: legible in light, dark and on a phone; with scripts and without.

Pictures of it are kept in .cache/screenshots.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from browser import Browser, chromium
from shown_targets import Shown, showing

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("chromium")]

QUICK = "const slow = setTimeout; window.setTimeout = (run, after) => slow(run, after / 50);"
"""Has the page refresh itself fifty times as often."""

WAKE = {"wakeFrom": "epp", "wakeService": "epp"}
ROWS = "document.querySelectorAll('.targets tbody tr').length"
WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def fleet(shown: Shown) -> None:
    """Have an hour of models at work, asleep, waking, and in trouble."""
    models = ("gemma-3-27b", "gpt-oss-120b", "llama-3-70b", "mixtral-8x7b", "qwen3-32b", "phi-4")
    targets = [
        shown.target("models" if index < 4 else "research", name, staleSeconds="60", **WAKE)
        for index, name in enumerate(models)
    ]
    for minute in range(61):
        for second in (0, 30, 56):
            shown.clock.now = 120_000.0 + 60 * minute + second
            for index, target in enumerate(targets):
                load = 4 + 4 * math.sin(minute / 9 + index)
                replicas = 1 + (minute > 20) + (minute > 35 and index % 2)
                if index == 1 and minute > 40:
                    shown.poll(target)
                elif index == 3 and minute > 56:
                    target.unlisted("EndpointSlices: no answer within 10 s")
                elif index == 5:
                    shown.poll(target, *[0.0] * replicas, kv=0.02)
                else:
                    answers = [round(load + 3 * (index == 2)) for _ in range(replicas)]
                    missing = [None] if index == 4 and minute > 58 else []
                    shown.poll(target, *answers, *missing, kv=min(1, 0.2 + load / 11))


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("light", {"height": 860}),
        ("dark", {"dark": True, "height": 860}),
        ("phone", {"width": 390, "height": 844}),
    ],
)
async def test_the_list_is_legible(browser: Browser, name: str, look: dict[str, int]) -> None:
    """Wherever it is looked at: it fits, breaks no policy, and shows every target."""
    async with showing() as shown, browser.page(**look) as page:
        fleet(shown)
        await page.open(shown.url + "/")

        assert await page.evaluate(ROWS) == 6
        assert not await page.evaluate(WIDE)
        colour = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(json.loads(f"[{colour[4:-1]}]")) < 200) == (name == "dark")
        assert page.problems == []
        await page.keep_picture(f"list-{name}", whole=name != "phone")


@pytest.mark.parametrize(
    ("name", "look"),
    [("light", {"height": 1000}), ("dark-phone", {"width": 390, "height": 844, "dark": True})],
)
async def test_one_target_is_legible(browser: Browser, name: str, look: dict[str, int]) -> None:
    """With its plots, its replicas and what happened."""
    async with showing() as shown, browser.page(**look) as page:
        fleet(shown)
        await page.open(shown.url + "/")
        await page.evaluate("[...document.links].find((a) => a.text === 'llama-3-70b').click()")
        await page.until("location.pathname === '/ui/models/llama-3-70b'")
        await page.until("document.readyState === 'complete'")
        assert await page.evaluate("document.querySelectorAll('svg.plot').length") == 4

        assert not await page.evaluate(WIDE)
        assert page.problems == []
        await page.keep_picture(f"target-{name}", whole=True)


async def test_it_refreshes_itself_in_place(browser: Browser) -> None:
    """What changes is shown; what was opened, and what is being typed, stays."""
    async with showing() as shown, browser.page() as page:
        target = shown.target()
        shown.poll(target, 3)
        await page.command("Page.addScriptToEvaluateOnNewDocument", source=QUICK)
        await page.open(shown.url + "/ui/models/llama")
        await page.evaluate("document.querySelector('details').open = true")
        shown.poll(target, 42)

        await page.until("document.querySelector('#live').textContent.includes('42')")
        assert await page.evaluate("document.querySelector('details').open")
        await page.evaluate("document.querySelector('#refresh button').click()")
        shown.poll(target, 77)
        await asyncio.sleep(0.3)
        assert not await page.evaluate("document.body.textContent.includes('77')")
        await page.evaluate("document.querySelector('#refresh button').click()")
        await page.until("document.body.textContent.includes('77')")
        shown.store.close()
        await page.until("document.querySelector('#refresh').className === 'bad'")


async def test_thousands_are_paged_and_filters_survive_a_reload(browser: Browser) -> None:
    """The filter is in the address; it is filled in again, and the way on keeps it."""
    async with showing() as shown, browser.page(width=1440) as page:
        for index in range(5000):
            target = shown.target(f"team-{index % 40:02}", f"model-{index:04}", idleSeconds="0")
            shown.poll(target, index % 3)
        await page.open(shown.url + "/")
        assert await page.evaluate(ROWS) == 50
        await page.keep_picture("list-thousands")
        await page.evaluate("document.querySelector('[name=namespace]').value = 'team-07'")
        await page.evaluate("document.querySelector('[name=state]').value = 'active'")
        await page.evaluate("document.querySelector('form').requestSubmit()")
        await page.until("location.search === '?namespace=team-07&state=active'")
        await page.until(f"{ROWS} === 50")
        await page.evaluate("document.querySelector('[rel=next]').click()")
        await page.until("location.search.endsWith('offset=50')")
        await page.command("Page.reload")
        await page.until(f"document.readyState === 'complete' && {ROWS} === 34")

        assert await page.evaluate("document.querySelector('[name=namespace]').value") == "team-07"
        assert await page.evaluate("document.querySelector('[name=state]').value") == "active"
        assert page.problems == []


async def test_without_scripts_nothing_is_missing(browser: Browser) -> None:
    """All targets, links and the filter, for whoever runs none."""
    async with showing() as shown, browser.page(scripts=False) as page:
        fleet(shown)
        await page.open(shown.url + "/?state=active")

        text = await page.evaluate("document.body.innerText")
        assert "pause" not in text
        for said in ("llama-3-70b", "queue-depth", "wanted", "Sources", "wake source epp"):
            assert said in text


async def test_what_is_typed_runs_nowhere(browser: Browser) -> None:
    """Also after scripts have put a refreshed page in place."""
    async with showing() as shown, browser.page() as page:
        typed = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
        target = shown.target(typed, typed, model=typed)
        shown.poll(target, 3, None, prefix=typed)
        await page.command("Page.addScriptToEvaluateOnNewDocument", source=QUICK)
        await page.open(shown.url + "/")
        await page.evaluate("document.querySelector('tbody th a').click()")
        await page.until("location.pathname.startsWith('/ui/')")
        shown.poll(target, 88, None, prefix=typed)
        await page.until("document.body.textContent.includes('88')")

        assert await page.evaluate("document.title") == f"{typed}/{typed} - keda-scaler"
        assert await page.evaluate("document.images.length") == 0
        assert page.problems == []

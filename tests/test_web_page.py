"""The page as it is written: complete without scripts, and nothing that anybody typed is HTML."""

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keda_scaler.core import told
from keda_scaler.core.decision import State
from keda_scaler.core.explain import explain
from keda_scaler.core.readings import Missing, Replica
from keda_scaler.web import detail, listing
from keda_scaler.web.html import document
from keda_scaler.web.overview import Overview, Query, Source
from keda_scaler.web.plots import Line, sparkline
from shown_targets import get, showing

TAGS = frozenset(
    [
        "html",
        "head",
        "meta",
        "title",
        "link",
        "script",
        "body",
        "header",
        "a",
        "span",
        "p",
        "main",
        "h1",
        "h2",
        "form",
        "label",
        "input",
        "datalist",
        "option",
        "select",
        "button",
        "div",
        "ul",
        "li",
        "b",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "svg",
        "path",
        "rect",
        "nav",
        "section",
        "dl",
        "dt",
        "dd",
        "figure",
        "figcaption",
        "code",
        "details",
        "summary",
    ]
)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "</main></div>&lt;{0}{}%s",
)


class Read(HTMLParser):
    """Takes HTML apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.links: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "action"}]

    def handle_data(self, data: str) -> None:
        self.text += data

    def is_ours(self) -> bool:
        """Whether there is nothing in it but what we write."""
        return (
            set(self.tags) <= TAGS
            and self.tags.count("script") <= 1
            and not any(name.startswith("on") or name == "style" for name, _ in self.attributes)
            and all(link.startswith(("/", "data:,")) for link in self.links)
            and not any(link.startswith("//") for link in self.links)
        )


@pytest.mark.parametrize("typed", HOSTILE)
async def test_what_is_typed_is_shown_and_is_no_html(typed: str) -> None:
    """Names, metadata, replicas, reasons: through a real server, as KEDA and sources give them."""
    async with showing() as shown:
        target = shown.target(typed, typed, model=typed, wakeFrom="epp", wakeService="epp")
        shown.poll(target, 3, None, prefix=typed)
        target.read(f"{typed}-0", {}, None)
        target.demanded(Missing(typed))
        broken = shown.target(typed, "broken", model=typed)
        broken.listed([Replica(typed)], shown.clock.now)
        broken.unlisted(typed)
        list_text, headers = await get(shown.url + "/")
        (path,) = (x for x in Read(list_text).links if x.startswith("/ui/") and "broken" not in x)
        one_text, _ = await get(shown.url + path)
        filtered, _ = await get(shown.url + "/", params={"namespace": typed})

    assert "unsafe" not in headers["Content-Security-Policy"]
    for html in (list_text, one_text, filtered):
        read = Read(html)
        assert read.is_ours()
        assert typed in read.text
    assert Read(one_text).text.count(typed) > 5
    assert ("value", typed) in Read(filtered).attributes


_TEXT = st.text(max_size=20) | st.sampled_from(HOSTILE)


@given(_TEXT, _TEXT, _TEXT, st.sampled_from([*State]))
def test_no_text_at_all_becomes_html(one: str, two: str, three: str, state: State) -> None:
    """Whatever it is and wherever it stands."""
    target = explanation(one, two, three)
    query = Query(namespace=one, state=state, limit=10, offset=20)
    overview = Overview(
        total=99,
        limit=10,
        offset=20,
        states=dict.fromkeys(State, 1),
        namespaces=[one, two],
        sources=[],
    )
    source = Source(
        source=one,
        targets=1,
        replicas_listed=1,
        replicas_answering=0,
        newest_seconds=None,
        targets_in_trouble=1,
        trouble=two,
    )
    parts = [
        listing.counts(query, overview),
        listing.list_head(overview),
        listing.list_row(target, target.samples, 0.0),
        listing.list_foot(query, overview),
        listing.sources([source]),
        detail.target_head(one, two),
        *detail.target_parts(target, 0.0),
    ]
    read = Read(document(three, listing.filters(query, overview.namespaces), parts))

    assert read.is_ours()
    ours = Read(document("t", listing.filters(Query(), []), []))
    assert read.tags[:8] == ours.tags[:8]


def explanation(one: str, two: str, three: str) -> told.Explanation:
    signal = told.Signal(
        signal=one,
        unit="requests",
        target=1.0,
        per_replica=None,
        reported=None,
        asks_for_replicas=None,
        decides=True,
        held=True,
        note=two,
        missing=three,
    )
    reading = told.Reading(signal=one, value=1.0, age_seconds=1.0, missing=two)
    replica = told.Replica(
        name=three, engine=one, ready=True, terminating=True, stuck=True, readings=(reading,)
    )
    change = told.Change(
        unix_seconds=0.0,
        seconds_ago=1.0,
        state="active",
        reason=one,
        text=two,
        replicas_wanted=1,
        replicas_answering=1,
    )
    return told.Explanation(
        namespace=one,
        name=two,
        state="active",
        reason=three,
        text=one,
        since_seconds=None,
        seconds_to_zero=None,
        seconds_to_zero_missing=two,
        replicas_listed=1,
        replicas_listed_missing=three,
        replicas_answering=1,
        replicas_wanted=1,
        asked_age_seconds=1.0,
        signals=(signal, replace(signal, per_replica=2.0, asks_for_replicas=2.0)),
        to_do=one,
        bound_by=(told.Bound(what=one, text=two, seconds_left=1.0),),
        warnings=(three,),
        trigger={one: two},
        list_age_seconds=None,
        demand=told.Demand(
            source=one, requests=None, held_requests=None, age_seconds=None, missing=two
        ),
        replicas=(replica,),
        replicas_left_out=1,
        changes=(change,),
        samples=(),
    )


async def test_the_list_says_all_without_scripts() -> None:
    """State, reason and since when, replicas, signals against targets, and the way to zero."""
    async with showing() as shown:
        shown.poll(shown.target("a", "busy"), 12, 3)
        shown.poll(shown.target("a", "quiet"), 0, 0)
        shown.target("b", "broken").unlisted("slices: forbidden")
        shown.clock.now += 4
        html, headers = await get(shown.url + "/")
        empty, _ = await get(shown.url + "/?namespace=nobody")
        nothing, _ = await get(shown.url + "/?state=idle")

    text = Read(html).text
    for said in ("busy", "2 of 2, 3 wanted", "7.5 of 5", "26 s"):
        assert said in text
    for said in ("slices: forbidden", "never-known for 4.0 s", "Sources", "pods of Services"):
        assert said in text
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "No target yet" in empty
    assert "No target matches" in nothing


async def test_filters_are_links_that_can_be_kept() -> None:
    """Every link of a filtered page keeps the filter."""
    async with showing() as shown:
        for index in range(70):
            shown.target("a&b", f"t-{index:02}").unlisted("x")
        html, _ = await get(shown.url + "/", params={"namespace": "a&b", "state": "unknown"})
        read = Read(html)
        after = next(link for link in read.links if "offset=50" in link)
        second, _ = await get(shown.url + after)

    assert ("selected", None) in read.attributes
    assert after == "/?namespace=a%26b&state=unknown&offset=50"
    assert "51 to 70 of 70" in Read(second).text
    assert "t-69" in Read(second).text
    assert "/?namespace=a%26b&state=unknown" in Read(second).links


async def test_one_target_says_all_without_scripts() -> None:
    """What decides, the last hour, replicas, changes and the trigger."""
    async with showing() as shown:
        target = shown.target(wakeFrom="epp", wakeService="epp", wakeSelector='pool="x"')
        for minute in range(90):
            shown.clock.now += 60
            shown.poll(target, minute % 7, 1 if minute % 9 else None)
        html, _ = await get(shown.url + "/ui/models/llama")
        missing, _ = await get(shown.url + "/ui/models/nobody", 404)

    read = Read(html)
    for said in ("What decides", "asks for the most", "The last hour", "Replicas", "Changes"):
        assert said in read.text
    for said in ("pod-0", "ready, vllm", "wakeSelector", 'pool="x"', "requests at epp"):
        assert said in read.text
    assert read.tags.count("figure") == 4
    assert "not followed" in missing


async def test_triggers_of_one_scaled_object_are_told_apart() -> None:
    """Each with all of its own."""
    async with showing() as shown:
        shown.target(targetConcurrency="7")
        shown.target(prometheus="main")
        html, _ = await get(shown.url + "/ui/models/llama")

    read = Read(html)
    assert "Trigger 1 of 2" in read.text
    assert "Trigger 2 of 2" in read.text
    identifiers = [value for name, value in read.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize("path", ["/ui/a/%3Cb%3E", "/targets/a/%3Cb%3E", "/?state=%3Cb%3E"])
async def test_an_error_is_plain_text(path: str) -> None:
    """It repeats what was asked for, and no browser takes it for a page."""
    async with showing() as shown:
        text, headers = await get(shown.url + path, 400 if "?" in path else 404)

    assert "<b>" in text
    assert headers["Content-Type"].startswith("text/plain")
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_gap_in_a_plot_is_a_gap() -> None:
    """What was not known, or not sampled, is not drawn."""
    points = [(300.0, 1.0), (240.0, None), (230.0, 1.0), (160.0, 2.0), (0.0, 1.0)]
    drawn = sparkline(Line("value", points), None, "x")

    assert str(drawn).count("M") == 3
    assert str(drawn).count("L") == 1
    assert "nan" not in str(sparkline(Line("value", [(0.0, 0.0)]), 5.0, "x"))


async def test_an_old_hour_is_no_line_at_the_left_edge() -> None:
    """Samples are of the last hour."""
    async with showing() as shown:
        target = shown.target()
        shown.poll(target, 3)
        shown.clock.now += 7200
        shown.poll(target, 3)
        known = explain(target.known(), time.time())

    assert len(known.samples) == 1

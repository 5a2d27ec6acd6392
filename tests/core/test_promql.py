"""Queries of triggers see one namespace and nothing else."""

import time

import promql_parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_scaler.core import promql
from keda_scaler.core.matchers import any_of, parse_matchers
from keda_scaler.core.promql import MAX_OPERATIONS, bind


@pytest.mark.parametrize(
    ("query", "bound"),
    [
        ("up", 'up{namespace="a"}'),
        ("up{}", 'up{namespace="a"}'),
        ('{job="x"}', '{job="x",namespace="a"}'),
        ('up{namespace="b"}', 'up{namespace="a",namespace="b"}'),
        ("rate(up[5m] offset 1h)", 'rate(up{namespace="a"}[5m] offset 1h)'),
        (
            "max_over_time(rate(up[1500ms])[1h:])",
            'max_over_time(rate(up{namespace="a"}[1s500ms])[1h:])',
        ),
        ("sum by (x) (up @ end()) or vector(0)", None),
        ("topk(scalar(k), v)", 'topk(scalar(k{namespace="a"}), v{namespace="a"})'),
        ("absent(up) - on () (-down)", None),
        ('sum by("namespace") (by)', 'sum by (namespace) (by{namespace="a"})'),
        ("offset # { up }", 'offset{namespace="a"}'),
        ("1 + 1", "1 + 1"),
        (r'up{x="\"} or up{y=\"z"}', r'up{namespace="a",x="\"} or up{y=\"z"}'),
        (r'up{x=~"a\\.b|\\d"}', r'up{namespace="a",x=~"a\\.b|\\d"}'),
        ('{"a name","a}label"=`"`}', r'{"a}label"="\"",__name__="a name",namespace="a"}'),
    ],
)
def test_every_selector_is_bound(query: str, bound: str | None) -> None:
    """A matcher is added wherever series are selected, and nothing else changes."""
    text = bind(query, "a")

    assert escapes(text, "a") == []
    assert bound is None or text == bound


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("sum(", "PromQL (unclosed left parenthesis)"),
        ("up[5m]", "not a range or a text"),
        ("up[5m:1m]", "not a range or a text"),
        ('"up"', "not a range or a text"),
        ('up{a="b" or c="d"}', "without `or` between label matchers"),
        ("sum(info(up))", "without info()"),
        ("-" * MAX_OPERATIONS + "-up", f"at most {MAX_OPERATIONS} operators"),
        ("#\r" + "-" * MAX_OPERATIONS + "-up", f"at most {MAX_OPERATIONS} operators"),
        ('#"\n' + "up+" * MAX_OPERATIONS + "up+up", f"at most {MAX_OPERATIONS} operators"),
    ],
)
def test_what_cannot_be_bound_is_refused(query: str, says: str) -> None:
    """What is no number, or selects in ways that a matcher does not reach, is an error."""
    with pytest.raises(ValueError, match="PromQL") as caught:
        bind(query, "a")

    assert says in str(caught.value)


def test_a_long_query_of_text_is_no_deep_one() -> None:
    """Operators inside strings, comments and label matchers do not count."""
    labels = ",".join(f'l{n}!="(-+-)"' for n in range(MAX_OPERATIONS))

    assert bind(f"up{{{labels}}} # {'-' * 100}", "a").startswith("up{")


@pytest.mark.parametrize("query", ["{}" + "+up" * MAX_OPERATIONS, "abs(" * 60 + "{}" + ")" * 60])
def test_the_worst_query_is_bound_soon(query: str) -> None:
    """The event loop is held up by less than a second, also on a busy machine."""
    began = time.process_time()
    bind(query.format("up"), "a")

    assert time.process_time() - began < 1


def test_what_is_sent_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that forgets a selector gives an error, not a query."""
    monkeypatch.setattr(promql, "_bound", lambda node, _: node)

    with pytest.raises(ValueError, match="can be bound"):
        bind("rate(up[5m])", "a")


TEXTS = st.text(st.sampled_from("ab \"\\}{,=\n'`é#"), max_size=8)
LABELS = st.sampled_from(["a", "namespace", "by", "job"])


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


@st.composite
def selectors(draw: st.DrawFn) -> str:
    pairs = draw(st.lists(st.tuples(LABELS, st.sampled_from(["=", "!="]), TEXTS), max_size=3))
    matchers = ",".join(f"{label}{operator}{quoted(text)}" for label, operator, text in pairs)
    name = draw(st.sampled_from(["up", "by", "offset", "vllm:waiting", "x"]))
    return name + (f"{{{matchers}}}" if matchers or draw(st.booleans()) else "")


def wrapped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        inner.map("({})".format),
        inner.map("-{}".format),
        inner.map("sum by (namespace) ({})".format),
        inner.map("max_over_time(({})[5m:1m])".format),
        inner.map('label_replace({}, "namespace", "a", "", "")'.format),
        st.tuples(inner, st.sampled_from(["+", "or", "unless on (a)", "> bool"]), inner).map(
            " ".join
        ),
    )


RANGES = selectors().map("rate({}[5m])".format)
QUERIES = st.recursive(selectors() | RANGES | st.just("vector(0)"), wrapped, max_leaves=6)


@given(QUERIES, TEXTS)
def test_no_selector_escapes(query: str, namespace: str) -> None:
    """Whatever a query consists of, each of its selectors has the matcher, and none is lost."""
    text = bind(query, namespace)

    assert escapes(text, namespace) == []
    assert len(found(text)) == len(found(query))


@given(st.text(st.sampled_from('up{}()[]"\\=,+-or \n#5m:@`'), max_size=30))
def test_nonsense_is_bound_or_refused(query: str) -> None:
    """No text makes anything but a bound query or an error that says what is accepted."""
    try:
        text = bind(query, "a")
    except ValueError as error:
        text = str(error)
    assert text.startswith("PromQL") or escapes(text, "a") == []


def found(text: str) -> list[promql_parser.VectorSelector]:
    """Give all selectors of a query."""
    selected: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            selected.append(node)

    promql_parser.walk(promql_parser.parse(text), visit)
    return selected


def escapes(text: str, namespace: str) -> list[str]:
    """Give the selectors that are not bound."""
    wanted = promql_parser.Matcher(promql_parser.MatchOp.Equal, "namespace", namespace)
    return [
        str(each)
        for each in found(text)
        if each.matchers.or_matchers or str(wanted) not in map(str, each.matchers.matchers)
    ]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["a.b", "a|b"]),
        max_size=9,
    ),
    st.sampled_from(["aXb", "a", "", ".*"]),
)
def test_any_of_matches_these_names_and_no_other(names: list[str], other: str) -> None:
    """Whatever they are made of: a namespace is never a pattern."""
    (matcher,) = parse_matchers(f"namespace=~{any_of(names)}")

    assert all(matcher.matches({"namespace": name}) for name in names)
    assert matcher.matches({"namespace": other}) is (other in (names or [""]))

"""Queries of triggers, bound to one namespace.

Whoever may create a ScaledObject writes the query, so nothing that it selects may be outside the
ScaledObject's namespace. The query is parsed, every selector gets a matcher, and it is written anew
by the parser's own printer, so that what is sent is what was judged.
"""

import re

import promql_parser
import re2

from keda_scaler.core.matchers import quote, taken

MAX_OPERATIONS = 64
"""Operators, parentheses and brackets of a query: the parser's walk takes time by the cube of how
deep they nest, and 64 of them a few hundredths of a second."""

_TEXT = re.compile(
    r"""#[^\r\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`""",
    re.DOTALL,
)
_MATCHERS = re.compile(r"\{[^}]*\}")
_OPERATION = re.compile(r"[-+*/%^(\[]|[<>=!]=?|\b(?:and|or|unless|atan2)\b", re.IGNORECASE)
_HEAD = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?(\{)?")

_RANGES = (promql_parser.MatrixSelector, promql_parser.SubqueryExpr)


def bind(query: str, namespace: str) -> str:
    """Write a query anew, so that it selects series of one namespace only.

    Raises:
        ValueError: with what is accepted.

    """
    bare = _MATCHERS.sub("{}", _TEXT.sub('""', query))
    if len(_OPERATION.findall(bare)) > MAX_OPERATIONS:
        raise ValueError(f"PromQL of at most {MAX_OPERATIONS} operators and parentheses")
    try:
        parsed = promql_parser.parse(query)
    except ValueError as error:
        raise ValueError(f"PromQL ({error})") from None
    if isinstance(parsed, (*_RANGES, promql_parser.StringLiteral)):
        raise ValueError(  # noqa: TRY004  # the value is wrong, whatever type stands for it
            "PromQL that gives one number per series, not a range or a text"
        )
    matcher = f"namespace={quote(namespace)}"

    def rewrite(node: promql_parser.Expr) -> promql_parser.Expr | None:
        if isinstance(node, promql_parser.Call) and node.func.name == "info":
            raise ValueError("PromQL without info(), which selects series by itself")
        return _bound(node, matcher) if isinstance(node, promql_parser.VectorSelector) else None

    text: str = promql_parser.transform(parsed, post_visit=rewrite).prettify()
    _verify(text, namespace)
    return text


def elsewhere(query: str, namespace: str) -> list[str]:
    """Find the matchers of a query that no series of the namespace meets.

    Bound, such a query would give nothing for ever, and `or vector(0)` would make that idle.
    """
    found: list[str] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            named = [each for each in node.matchers.matchers if each.name == "namespace"]
            found.extend(str(each) for each in named if not _meets(each, namespace))

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def _meets(matcher: promql_parser.Matcher, namespace: str) -> bool:
    try:
        return taken(matcher).matches({"namespace": namespace})
    except re2.error:
        return False


def _bound(node: promql_parser.VectorSelector, matcher: str) -> promql_parser.Expr:
    """Put a matcher in front of those of a selector."""
    if node.matchers.or_matchers:
        raise ValueError("PromQL without `or` between label matchers")
    text: str = node.prettify()
    name, opening = _HEAD.match(text).groups("")  # type: ignore[union-attr]  # it matches anything
    joined = matcher + ("," if opening else "}")
    return promql_parser.parse(f"{name}{{{joined}{text[len(name + opening) :]}")


def _verify(text: str, namespace: str) -> None:
    """Look at what is sent, whatever has made it: no selector may be without the matcher."""

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found = [(m.name, str(m.op), m.value) for m in node.matchers.matchers]
            if ("namespace", "MatchOp.Equal", namespace) not in found or node.matchers.or_matchers:
                raise ValueError("PromQL whose selectors can be bound to a namespace")

    promql_parser.walk(promql_parser.parse(text), visit)

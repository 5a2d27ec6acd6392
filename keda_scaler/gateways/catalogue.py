"""The catalogue of gateways: `docs/gateways.md`, written from the tables. Pure."""

from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from keda_scaler.core.matchers import Matcher
from keda_scaler.gateways import GATEWAYS
from keda_scaler.gateways.gateway import Families, Family, Gateway

_INTRODUCTION = """\
# Gateways

Written from the code by `tools/render-gateways`; a test fails when the two differ.

At zero replicas no engine can say that a request came. `wakeFrom` in a trigger names what stands in
front of it, one of these.

- A gauge wakes while it is positive; a counter wakes when it is higher than at the reading before,
  or new and not zero. A counter that fell was reset and wakes nothing.
- The first reading of counters is what later ones are compared with, and wakes nothing.
- With `wakeService` every pod of the gateway is read and all are added up; without it, the target's
  Prometheus. `wakePort` and `wakePath` are for `wakeService`.
- `wakeSelector` narrows what is read further, by the labels of the gateway's own series.
- Of several names for one number, each process is read by the first that it prints.
- A page of something else, or half a page, is an error. A number that is negative, larger than
  2^53 or none, and a series that stands twice, make the gateway unknown for the target, never zero.
- A gateway in another namespace must be allowed with `--allow-address`. If its page names no
  namespaces, the trigger must give `model` or `wakeSelector`.
- Through Prometheus only series of the ScaledObject's namespace are read; the tables say by which
  label.
- Where a gateway does not hold requests at zero, the first one fails: clients must try again until
  a replica is ready.
"""


def render(gateways: Collection[Gateway] = tuple(GATEWAYS.values())) -> str:
    """Write the page, in Markdown."""
    return "\n".join(chain([_INTRODUCTION], _overview(gateways), *map(_chapter, gateways)))


def _overview(gateways: Iterable[Gateway]) -> Iterator[str]:
    head = ("`wakeFrom`", "name", "holds requests at zero", "wakes by")
    yield f"| {' | '.join((*head, '`model`', 'needs `wakeSelector`'))} |"
    yield "|---|---|---|---|---|---|"
    for gateway in gateways:
        anchor = gateway.title.lower().replace(" ", "-")
        gauges = ["gauges"] if gateway.held or gateway.running else []
        cells = (
            f"[`{gateway.name}`](#{anchor})",
            gateway.title,
            gateway.holds,
            " and ".join([*gauges, *(["counters"] if gateway.arrivals else [])]),
            _labels(gateway.model_labels) or "no effect",
            _need(gateway),
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _need(gateway: Gateway) -> str:
    if not gateway.example:
        return "no"
    need = f"yes: `{gateway.example}`"
    return need if gateway.default is None else f"{need}, unless the trigger has `service`"


def _chapter(gateway: Gateway) -> Iterator[str]:
    yield f"## {gateway.title}\n"
    yield f"- `wakeFrom: {gateway.name}`; the page is at `{gateway.path}`."
    if gateway.default is not None:
        label, part = gateway.default
        whose = "the ScaledObject's name" if part == "name" else "`service` of the trigger"
        yield f"- `{label}` is {whose}, unless `wakeSelector` names it."
    if gateway.model_labels:
        yield f"- `model` of a trigger is the label {_labels(gateway.model_labels)}."
    yield f"- {_where(gateway)}: {', or '.join(_conditions(gateway))}."
    yield f"- If there is no series: {_absence(gateway)}."
    yield f"- {gateway.notes}\n"
    yield "| requests | read from |"
    yield "|---|---|"
    for what, families in _rows(gateway):
        yield f"| {what} | {', else '.join(map(_family, families))} |"
    yield ""


def _rows(gateway: Gateway) -> Iterator[tuple[str, Families]]:
    if gateway.held:
        yield "waiting there", gateway.held
    if gateway.running:
        beside = ", beside those" if gateway.held else ""
        yield f"taken and not answered{beside}", gateway.running
    for families in gateway.arrivals:
        yield "arrived (counter)", families


def _absence(gateway: Gateway) -> str:
    if gateway.target and not gateway.late:
        return "unknown"
    on_page = "unknown" if gateway.target else "0"
    if gateway.late:
        return f"{on_page} on its page, 0 through a Prometheus with fresh data"
    names = _labels(sorted(gateway.heartbeats), " or ")
    return f"{on_page} on its page; through Prometheus 0 while it has {names}, else unknown"


def _where(gateway: Gateway) -> str:
    if gateway.shared:
        return "Only series with"
    if gateway.says_namespace:
        return "Through Prometheus, or in another namespace, only series with"
    return "Through Prometheus only series with"


def _conditions(gateway: Gateway) -> Iterator[str]:
    """Give the conditions on a namespace; those that only keep two selectors apart left out."""
    for alternative in gateway.of_namespace("NAMESPACE"):
        told = [matcher for matcher in alternative if matcher.operator in {"=", "=~"}]
        yield " and ".join(f"`{_matcher(m)}`" if m.value else f"no `{m.name}`" for m in told)


def _family(family: Family) -> str:
    braces = ",".join(map(_matcher, family.matchers)).replace("|", "\\|")
    return f"`{family.name}{f'{{{braces}}}' if braces else ''}` ({family.versions})"


def _matcher(matcher: Matcher) -> str:
    return f'{matcher.name}{matcher.operator}"{matcher.value}"'


def _labels(names: Iterable[str], separator: str = ", else ") -> str:
    return separator.join(f"`{name}`" for name in names)

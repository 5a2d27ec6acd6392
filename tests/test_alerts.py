"""Alerts and dashboard: they use metrics that exist, and each alert fires when it should."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from structlog.testing import capture_logs

from keda_scaler.core.decision import Reason, State
from keda_scaler.telemetry import Telemetry
from keda_scaler.telemetry.families import OF_SCALER, OF_TARGETS
from telemetry_page import numbers, promtool, real_page

ROOT = Path(__file__).parent.parent
FILES = ROOT / "manifests" / "chart" / "keda-scaler" / "files"
RULES: list[Any] = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD: Any = json.loads((FILES / "dashboard.json").read_text())
PANELS: list[Any] = DASHBOARD["panels"]
FROM_PROMETHEUS = {"instance", "job", "namespace"}

TARGET = {"namespace": "models", "name": "llama"}
OURS = 'namespace="models",name="llama",trigger="00000000"'
POLLS = 'keda_scaler_rpcs_total{method="GetMetrics",code="OK"}'
POLLS_OF = 'keda_scaler_rpcs_total{{method="GetMetrics",code="OK",instance="{}"}}'
READS = 'keda_scaler_read_seconds_count{{source="endpoints",result="{}"}}'
AGE = f"keda_scaler_target_reading_age_seconds{{{OURS}}}"
STALE_AFTER = f"keda_scaler_target_stale_after_seconds{{{OURS}}}"
HELD = f"keda_scaler_target_held_signals{{{OURS}}}"
UNKNOWN = f"keda_scaler_target_unknown_signals{{{OURS}}}"
STUCK = f"keda_scaler_target_stuck_replicas{{{OURS}}}"
CAPPED = f"keda_scaler_target_capped_signals{{{OURS}}}"
STATE = "keda_scaler_target_state{{" + OURS + ',state="active",reason="{}"}}'

Series = Mapping[str, str]
"""Values of series, a minute apart, as promtool writes them: `0+1x60` counts up to 60."""

FIRES: dict[str, tuple[dict[str, str], Series]] = {
    "KedaScalerDown": ({}, {}),
    "KedaScalerNoPolls": ({}, {POLLS: "0+20x20 400x60"}),
    "KedaScalerSourceFailing": (
        {"source": "endpoints"},
        {READS.format("ok"): "0+2x60", READS.format("error"): "0+3x60"},
    ),
    "KedaScalerReloadFailed": ({}, {"keda_scaler_settings_last_reload_ok": "1 0x60"}),
    "KedaScalerUnknown": (TARGET, {UNKNOWN: "0 2x60"}),
    "KedaScalerHeld": (TARGET, {HELD: "0 1x60", STUCK: "0x60"}),
    "KedaScalerStale": (TARGET, {AGE: "0+60x60", STALE_AFTER: "15x60"}),
    "KedaScalerStuck": (TARGET, {STUCK: "0 1x60"}),
    "KedaScalerCapped": (TARGET, {CAPPED: "0 1x60"}),
    "KedaScalerWaking": (TARGET, {STATE.format("waking"): "_ 1x60"}),
}
"""By alert: the labels that it has, and series that make it fire within an hour."""

QUIET: dict[str, list[Series]] = {
    "KedaScalerDown": [{"keda_scaler_build_info": "1x60"}],
    "KedaScalerNoPolls": [{POLLS: "0+20x60"}, {POLLS: "0x60"}, {}],
    "KedaScalerSourceFailing": [
        {READS.format("ok"): "0+3x60", READS.format("error"): "0+2x60"},
        {READS.format("ok"): "0+3x60"},
        {READS.format("ok"): "0x60", READS.format("error"): "0x60"},
    ],
    "KedaScalerReloadFailed": [{"keda_scaler_settings_last_reload_ok": "1x30 0 0 1x30"}],
    "KedaScalerUnknown": [{UNKNOWN: "0x60"}, {UNKNOWN: "0 0 1 1 1 0x60"}],
    "KedaScalerHeld": [{HELD: "0x60", STUCK: "0x60"}, {HELD: "1x60", STUCK: "1x60"}],
    "KedaScalerStale": [{AGE: "14x60", STALE_AFTER: "15x60"}, {STALE_AFTER: "15x60"}],
    "KedaScalerStuck": [{STUCK: "0x60"}],
    "KedaScalerCapped": [{CAPPED: "0x60"}, {CAPPED: "0 1x10 0x50"}],
    "KedaScalerWaking": [
        {STATE.format("waking"): "1x10 _x50", STATE.format("work"): "_x11 1x50"},
        {STATE.format("work"): "1x60"},
    ],
}
"""By alert: series that do not make it fire."""


@pytest.fixture(scope="module")
def page() -> str:
    with capture_logs():
        return asyncio.run(real_page())


def queries() -> Iterator[str]:
    """Give every query of the alerts and of the dashboard."""
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in PANELS for target in panel.get("targets", []))
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])[1]  # type: ignore[index]


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    """Give the selectors of a query; what Grafana puts in is put in."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    text = query.replace("$__rate_interval", "5m").replace("$namespace", ".*")
    promql_parser.walk(promql_parser.parse(text.replace("$name", ".*")), visit)
    return found


def test_every_metric_that_is_used_is_on_the_page_of_a_scaler(page: str) -> None:
    """A query for what does not exist is silent, which looks as if all were well."""
    used = {selector.name for query in queries() for selector in selectors(query)}

    assert len(used) > 20
    assert not used - {series.partition(" ")[0] for series in numbers(page)}


def test_every_label_that_is_selected_by_is_one_of_the_metric() -> None:
    """Likewise."""
    labels = {
        family.name + end: {*family.labels, *FROM_PROMETHEUS}
        for family in (*OF_SCALER, *OF_TARGETS)
        for end in ("", "_count", "_bucket", "_sum")
    }
    for query in queries():
        for selector in selectors(query):
            used = {matcher.name for matcher in selector.matchers.matchers}
            assert used <= labels.get(selector.name or "", FROM_PROMETHEUS), query


def test_every_state_and_reason_that_is_selected_by_exists() -> None:
    """Likewise."""
    words: dict[str, set[str]] = {"state": set(State), "reason": set(Reason)}
    used = {
        (matcher.name, word)
        for query in queries()
        for selector in selectors(query)
        for matcher in selector.matchers.matchers
        if matcher.name in words
        for word in matcher.value.split("|")
    }

    assert len(used) >= 9
    assert not {(name, word) for name, word in used if word not in words[name]}


# Alerts


def test_promtool_takes_the_rules() -> None:
    """As Prometheus does when it loads them."""
    promtool("check", "rules", FILES / "alerts.yaml")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: Any) -> None:
    """And where more about it is written."""
    notes = rule["annotations"]

    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(notes) == {"summary", "description", "runbook"}
    assert notes["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert all(notes[key].endswith(".") for key in ("summary", "description"))


def expected(rule: Any, labels: Mapping[str, str]) -> dict[str, Any]:
    """Say what an alert looks like when it fires."""
    notes = {
        key: re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)
        for key, text in rule["annotations"].items()
    }
    return {"exp_labels": {**rule["labels"], **labels}, "exp_annotations": notes}


def check(tmp_path: Path, rule: Any, series: Series, alerts: Mapping[str, list[Any]]) -> None:
    """Have promtool say at which moments an alert fires."""
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "alert_rule_test": [
            {"eval_time": moment, "alertname": rule["alert"], "exp_alerts": found}
            for moment, found in alerts.items()
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.dump({"rule_files": [str(FILES / "alerts.yaml")], "tests": [test]}))
    promtool("test", "rules", file)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_fires(rule: Any, tmp_path: Path) -> None:
    """With the labels and the words that whoever is called reads; and not at the first sign."""
    labels, series = FIRES[rule["alert"]]

    check(tmp_path, rule, series, {"1m": [], "60m": [expected(rule, labels)]})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_does_not_fire(rule: Any, tmp_path: Path) -> None:
    """While all is well, and for what passes by itself."""
    for series in QUIET[rule["alert"]]:
        check(tmp_path, rule, series, {f"{minute}m": [] for minute in range(0, 61, 2)})


async def test_a_restart_that_keda_does_not_reach_is_no_excuse(tmp_path: Path) -> None:
    """The count of a fresh scaler is 0 and not absent: also after a restart the alert fires."""
    (rule,) = (rule for rule in RULES if rule["alert"] == "KedaScalerNoPolls")
    fresh = b"".join([piece async for piece in Telemetry().exposition()]).decode()
    before, after = POLLS_OF.format("before"), POLLS_OF.format("after")
    series = {before: "0+20x20 _x60", after: "_x21 0x60"}

    assert numbers(fresh)["keda_scaler_rpcs_total OK GetMetrics"] == 0
    check(tmp_path, rule, series, {"20m": [], "60m": [expected(rule, {})]})


# Dashboard


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    """Grafana would move or lose them."""
    ids = Counter(panel["id"] for panel in PANELS)
    cells = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )

    assert ids.most_common(1)[0][1] == 1
    assert cells.most_common(1)[0][1] == 1
    assert max(x for x, _ in cells) == 23


def test_the_reader_chooses_prometheus_namespace_and_scaled_object() -> None:
    """No panel names a Prometheus of ours."""
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == [
        *("datasource", "namespace", "name")
    ]
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["targets"]

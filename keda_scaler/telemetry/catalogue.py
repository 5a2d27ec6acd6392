"""The catalogue of our metrics: `docs/metrics.md`, written from their table. Pure."""

from collections.abc import Iterator

from keda_scaler.telemetry.families import OF_SCALER, OF_TARGET, OF_TARGETS, Family
from keda_scaler.telemetry.targets import MAX_SHOWN

ALWAYS = 12
"""Series of a target, at most, beside those of its signals."""

PER_SIGNAL = 2
"""Series of a target for each of its signals, at most."""

_INTRODUCTION = """\
# Metrics

Written from the code by `tools/render-metrics`; a test fails when the two differ.

`/metrics` at the [HTTP address](settings.md#http), in Prometheus' text format. A dashboard for
Grafana and alerts that use them are in `manifests/chart/keda-scaler/files`. Tests run the alerts
with promtool, and look for every metric that either names on a real page.

## Scraping

- Scrape with `honor_labels: true`; in a ServiceMonitor or PodMonitor that is `honorLabels: true`.
  `namespace` is then the ScaledObject's. Without it Prometheus puts the scaler's own namespace
  there, and ours becomes `exported_namespace`: alerts and dashboard then tell the wrong one.
- Each pod of the scaler has series of the targets that KEDA asks it about. Of several pods take
  `max by`, as the alerts and the dashboard do; of `keda_scaler_target_asked_age_seconds` take
  `min by`.
- KEDA's operator has metrics that begin with `keda_scaler_`, too, such as `keda_scaler_active` and
  `keda_scaler_metrics_value`. None has the name of one of ours.
"""

_TARGETS = f"""\
## Of each target

A target is what KEDA asks about: a trigger of a ScaledObject. Its labels:

- `namespace` and `name` are the ScaledObject's, as KEDA tells them.
- `trigger` is a digest of all that KEDA sends about the trigger, eight hexadecimal digits. It tells
  the triggers of one ScaledObject apart, is the same in every pod of the scaler and after a
  restart, and changes with the trigger's metadata.

A target has at most {ALWAYS} series, and {PER_SIGNAL} for each of its signals:
{ALWAYS + 2 * PER_SIGNAL} with the default ones. The first {MAX_SHOWN:,} targets have series; of
later ones only the totals above tell, and `keda_scaler_targets_not_shown` counts them. A change of
state or reason ends one series of `keda_scaler_target_state` and begins another.

5,000 targets with two signals each are 70,000 series and 7 MB. Writing them took 0.1 s of CPU for
each scrape, in turns with calls: nothing else waited longer than 5 ms.
"""

_PROCESS = """\
## Of the process

Those of every Prometheus client, on Linux: `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_virtual_memory_bytes`, `process_start_time_seconds`,
`process_open_fds`, `process_max_fds`.
"""


def render() -> str:
    """Write the page, in Markdown."""
    scaler = ["## Of the scaler\n", *_table(OF_SCALER)]
    return "\n".join([_INTRODUCTION, *scaler, _TARGETS, *_table(OF_TARGETS), _PROCESS])


def _table(families: tuple[Family, ...]) -> Iterator[str]:
    yield "| metric | type | labels | says | series |"
    yield "|---|---|---|---|---|"
    for family in families:
        labels = [f"`{label}`" for label in family.labels if label not in OF_TARGET]
        yield (
            f"| `{family.name}` | {family.kind} | {', '.join(labels)} | {family.text} "
            f"| {family.series} |"
        )
    yield ""

"""Put the simulated stack under load, and say whether scaling keeps what it promises.

`--short` takes seconds, with shorter windows and a faster model.

Exit code 0: every check passed. 1: one did not. 2: the load could not be run. 130: interrupted.
"""

import argparse
import asyncio
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import yaml

from keda_scaler.demo.journal import Change
from keda_scaler.demo.plan import manifest
from keda_scaler.evidence import Observed, write
from keda_scaler.sim.model import EngineModel
from load_checks import Check, LoadPlan
from load_run import LoadError, verify

SHORT = LoadPlan(
    model=EngineModel(max_num_seqs=2, num_blocks=64, step_seconds=0.01),
    places=4,
    load_seconds=0.7,
    stop_seconds=0.1,
    max_replicas=3,
    target_queue_depth=2,
    polling_interval=1,
    sync_seconds=0.5,
    idle_seconds=1,
    cooldown_period=1,
    cold_start_seconds=10,
    up_period=1,
    down_stabilization=1,
    down_period=1,
    limit_seconds=50.0,
    users=16,
    seconds=3,
    prompt_tokens=20,
    max_tokens=20,
    up_seconds=4.0,
)
CHECKS = 5

INTRODUCTION = """\
Scaling under load, in three and a half minutes. Real: the scaler, its gRPC calls, its watch of the
Service, the pages it reads, and locust with the locustfile of manifests/loadtest. Simulated:
engines, gateway, and what KEDA and the HPA make of the answers.
"""


class Report:
    """What is printed and recorded."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.lines: list[str] = []

    def tell(self, change: Change) -> None:
        """Print what happened."""
        self.say(f"{change.seconds:6.1f} s  {change.by:<9}{change.text}")

    def found(self, check: Check) -> None:
        """Print what a check found."""
        self.checks.append(check)
        self.say(str(check))

    def say(self, line: str) -> None:
        """Print and keep a line."""
        self.lines.append(line)
        print(line, flush=True)  # noqa: T201  # a script

    @property
    def exit_code(self) -> int:
        """0 when every check was made, and passed."""
        is_good = len(self.checks) == CHECKS and all(check.is_kept for check in self.checks)
        return 0 if is_good else 1


def main(arguments: list[str] | None = None) -> int:
    """Verify, print, record; give the exit code."""
    parser = argparse.ArgumentParser("verify", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--record", type=Path, help="write FILE.json and FILE.md", metavar="FILE")
    options = parser.parse_args(arguments)
    plan = SHORT if options.short else LoadPlan()
    report = Report()
    report.say(INTRODUCTION)
    exit_code = _verify(plan, report)
    if options.record is not None:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        typed = sys.argv[1:] if arguments is None else arguments
        observed = Observed(
            ["python", "tests/load/verify.py", *typed],
            exit_code,
            "\n".join(report.lines),
            {"checks": [asdict(check) for check in report.checks]},
            model=plan.model.name,
            manifest=yaml.safe_load(manifest(plan, "scaler")),
            inputs={"plan": asdict(plan), "locust": version("locust")},
        )
        write(options.record, observed, datetime.now(UTC))
    return exit_code


def _verify(plan: LoadPlan, report: Report) -> int:
    was_loaded = True
    try:
        # Not uvloop: it forks, and in a fork gRPC's handlers crashed before locust had begun.
        asyncio.run(verify(plan, report.tell, report.found))
    except* LoadError as errors:
        report.say(f"not verified: {errors.exceptions[0]}")
        was_loaded = False
    except* TimeoutError:
        report.say(f"not over within {plan.limit_seconds:g} s")
    report.say("")
    for check in report.checks:
        report.say(str(check))
    report.say(f"{sum(check.is_kept for check in report.checks)} of {CHECKS} checks passed")
    return report.exit_code if was_loaded else 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

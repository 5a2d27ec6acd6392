"""docs/doctor.md: its sample is what the doctor prints, and its tables are complete."""

import re
from datetime import UTC, datetime
from pathlib import Path

from doctor_scene import condition, scene
from keda_scaler.doctor.command import line_of
from keda_scaler.evidence import Observed, record

TEXT = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text()
WHY = "unable to get external metric models/s0-queue-depth"


def section(name: str) -> str:
    """Give what stands between the markers."""
    return TEXT.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]


async def test_the_sample() -> None:
    """It is printed just so, but for the port; and every check of it is in the table."""
    async with scene() as it:
        it.page.body = it.page.body.replace("vllm:num_requests_waiting", "vllm:num_requests_queued")
        it.hpa["conditions"] = [condition("ScalingActive", "False", "FailedGetExternalMetric", WHY)]
        it.event("Warning", "FailedGetExternalMetric", WHY)
        checks = (await it.checks()).values()
    printed = "\n".join(line_of(check).plain for check in checks)
    shown = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:6000", printed)
    assert section("sample") == f"```text\n{shown}\n```\n"
    documented = set(re.findall(r"^\| `(\w+)`", section("checks"), re.MULTILINE))
    rest = {"prometheus", "trigger", "ScaledObject", "time"}
    assert documented == {check.name for check in checks} | rest


def test_the_keys_of_a_record() -> None:
    """Whoever reads the JSON finds each key explained."""
    made = record(Observed(["keda-scaler"], 0, "", {}), datetime.now(UTC))
    assert re.findall(r"^\| `(\w+)`", section("record"), re.MULTILINE) == list(made)

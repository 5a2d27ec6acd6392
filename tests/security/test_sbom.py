"""`make sbom`: the bill of materials of what is installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_dependency_is_listed_with_its_version_and_hashes(tmp_path: Path) -> None:
    """From the locked requirements alone, without a network, and the same every time."""
    file = tmp_path / "sbom.json"
    subprocess.run(
        [ROOT / "tools" / "sbom", file],
        check=True,
        env=os.environ | {"PYTHON": sys.executable, "HTTPS_PROXY": "http://127.0.0.1:9"},
    )
    bill = json.loads(file.read_text())
    pins = (ROOT / "requirements" / "runtime.txt").read_text()
    pinned = re.findall(r"^([\w.-]+)==([\w.!+-]+)", pins, re.MULTILINE)

    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "keda-scaler"
    assert len(pinned) > 30
    assert sorted((each["name"], each["version"]) for each in bill["components"]) == sorted(pinned)
    assert all(each["externalReferences"][0]["hashes"] for each in bill["components"])
    assert "serialNumber" not in bill
    assert "timestamp" not in bill["metadata"]

"""What a verification leaves behind: what it was given, and what it saw, as JSON and Markdown."""

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from keda_scaler import __version__


def record(
    path: Path, command: Sequence[str], exit_code: int, text: str, **more: Mapping[str, Any]
) -> None:
    """Write PATH.json and PATH.md."""
    made = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "exitCode": exit_code,
        "versions": {
            "keda-scaler": __version__,
            "Python": platform.python_version(),
            "locust": version("locust"),
        },
        "platform": platform.platform(),
        **more,
        "text": text,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = [f"{name}: {made[name]}" for name in ("at", "exitCode", "versions", "platform")]
    parts = [
        f"# Evidence: {shlex.join(command)}",
        "\n".join(f"- {fact}" for fact in facts),
        f"```text\n{text.strip()}\n```",
    ]
    path.with_suffix(".json").write_text(json.dumps(made, indent=2) + "\n")
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")

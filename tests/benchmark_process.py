"""A benchmark as a process of its own."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run_benchmark(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=100)
    finally:
        process.terminate()  # not killed: it has servers of its own to stop
        process.wait(10)
    return subprocess.CompletedProcess(command, process.returncode, out, err)

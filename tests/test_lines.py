"""The log is written by a thread, and whoever logs never waits."""

import io
import json
import subprocess
import sys
import threading

import pytest

from keda_scaler import lines
from keda_scaler.lines import Lines


def test_lines_are_whole_and_in_order() -> None:
    """What was taken is there when it is closed."""
    file = io.StringIO()
    log = Lines(file)
    for number in range(1000):
        log.write(f"line {number}\n")
        log.flush()
    log.close()

    assert file.getvalue().splitlines() == [f"line {number}" for number in range(1000)]


class Slow(io.StringIO):
    """A file that takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()
        self.waits = threading.Event()

    def write(self, text: str) -> int:
        self.waits.set()
        self.reads.wait(10)
        return super().write(text)


def test_what_nobody_reads_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, the beginning is kept, and the log says that something is missing."""
    monkeypatch.setattr(lines, "MAX_LINES", 5)
    file = Slow()
    log = Lines(file)
    log.write("first\n")
    assert file.waits.wait(10)
    for number in range(20):
        log.write(f"line {number}\n")
    file.reads.set()
    log.close()

    written = file.getvalue().splitlines()
    assert written[0] == "first"
    assert "15 lines were dropped: the log is read too slowly" in written
    assert [line for line in written if line.startswith("line")] == [f"line {n}" for n in range(5)]


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("closed")])
def test_a_file_that_cannot_be_written_ends_nothing(error: Exception) -> None:
    """As when whoever read our log is gone; later lines are tried again."""
    written: list[str] = []

    class Failing(io.StringIO):
        def write(self, text: str) -> int:
            if not written:
                written.append("")
                raise error
            written.append(text)
            return len(text)

    log = Lines(Failing())
    log.write("first\n")
    while not written:
        pass
    log.write("second\n")
    log.close()

    assert "second\n" in written[1]


def test_a_process_that_ends_has_written_its_log() -> None:
    """Also if it only ends, and closes nothing."""
    code = "import sys; from keda_scaler.lines import Lines; Lines(sys.stderr).write('last\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert done.stderr == b"last\n"


def test_whatever_is_said_becomes_a_line() -> None:
    """Half a character too, as JSON can write it: nobody who logs is told of an error."""
    code = (
        "import structlog; from keda_scaler.telemetry import configure_logging; "
        r"configure_logging(); structlog.get_logger().info('said', text='\ud800', what={1: object})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    line = json.loads(done.stderr)
    assert (line["event"], line["text"]) == ("said", "\ud800")

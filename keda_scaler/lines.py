"""Lines of the log, written by a thread of their own.

Whoever reads our log may be slow, or stop, and a write would then wait. KEDA must not wait with it.
"""

import atexit
import queue
import threading
import time
from typing import TextIO

MAX_LINES = 10_000
"""Lines that wait to be written; later ones are dropped, and counted in the log."""

BATCH_SECONDS = 0.02
"""How long a line may wait for others that are written with it."""

CLOSE_SECONDS = 2.0
"""Longest wait at the end of the process for what is not written yet."""


class Lines:
    """A text file to write to that never waits. Lines are whole, and in order."""

    def __init__(self, file: TextIO) -> None:
        """Write to this file until the end of the process."""
        self._file = file
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, line: str) -> None:
        """Take a line, with its end."""
        if self._lines.qsize() >= MAX_LINES:
            self._dropped += 1
        else:
            self._lines.put(line)

    def flush(self) -> None:
        """Do nothing: lines are written soon."""

    def close(self) -> None:
        """Write what is left, as far as that can be done."""
        atexit.unregister(self.close)
        self._lines.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            batch = [self._lines.get()]
            if batch[0] is not None:
                time.sleep(BATCH_SECONDS)
            while not self._lines.empty():
                batch.append(self._lines.get())
            goes_on = None not in batch
            dropped, self._dropped = self._dropped, 0
            if dropped:
                batch.append(f"{dropped} lines were dropped: the log is read too slowly\n")
            self._write("".join(line for line in batch if line is not None))

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except (OSError, ValueError):
            self._dropped += text.count("\n")  # nobody reads, or it is closed

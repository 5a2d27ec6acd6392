"""A real redis-server for tests, on loopback, that can be killed, stopped and started again."""

import signal
import socket
import subprocess
import time
from pathlib import Path

from prometheus_server import free_port, tool_binary

START_SECONDS = 20


class RedisProcess:
    """A redis-server on a port of its own, which it keeps. Not running until it is started."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._binary = tool_binary("redis-server")
        self._folder = folder
        self._options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with the data that it saved if it does save."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binary,
                    *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", self._folder),
                    *("--save", "", *self._options),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < end, "it does not start"
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash would; harmless when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Have it answer nothing more, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Send a command, and give the beginning of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(4096)

    def _answers(self) -> bool:
        try:
            answer = self.command("PING")
        except OSError:
            return False
        return answer.startswith((b"+PONG", b"-NOAUTH"))

"""Server processes: pinned to a core, paused while another is measured, their CPU time read."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

TOOLS = Path(__file__).parent.parent / ".cache" / "tools" / "bin"
START_SECONDS = 30.0
STOP_SECONDS = 10.0

_ADDRESS = re.compile(r"\S:(\d+)$")


class StartError(Exception):
    """A server did not start."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where things run."""

    server: int
    client: int

    @classmethod
    def pick(cls) -> "Cores":
        """Pick the first and the last of the cores we have; they are the same when it is one."""
        available = sorted(os.sched_getaffinity(0))
        return cls(available[0], available[-1])

    @property
    def shared(self) -> bool:
        """Whether the client takes time from the servers."""
        return self.server == self.client


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    process: "subprocess.Popen[str]"
    ports: tuple[int, ...]
    """Where it listens, in the order in which it says so."""

    @property
    def port(self) -> int:
        """The first of them."""
        return self.ports[0]

    def cpu_seconds(self) -> float:
        """Give the CPU time of all its threads so far, in user and kernel."""
        # The clock that clock_getcpuclockid(3) gives for a process; Python does not wrap it.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def rss_mib(self) -> float:
        """Give the memory that it has resident."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def pause(self) -> None:
        """Stop it in its tracks, so that it takes no time from a server that is measured."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str],
    core: int,
    env: Mapping[str, str] | None = None,
    *,
    ports: int = 1,
) -> Iterator[Server]:
    """Run a server on one core; the first addresses that it prints are where it listens.

    Raises:
        StartError: when it does not say so in time.

    """
    process = _start(command, core, env)
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        found = tuple(islice(_ports(process), ports))
        if len(found) < ports:
            raise StartError(f"{name} did not start; try it: {' '.join(command)}")
        watchdog.cancel()
        yield Server(name, process, found)
    finally:
        watchdog.cancel()
        _stop(process)


def find(tool: str) -> str | None:
    """Find a tool's binary; None: there is none."""
    local = TOOLS / tool
    return str(local) if local.exists() else shutil.which(tool)


def free_port() -> int:
    """Give a port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def process(tool: str, arguments: Sequence[str], port: int) -> Iterator[Server]:
    """Run a tool that does not say where it listens, on the cores that we run on ourselves.

    Raises:
        StartError: when there is no such tool.

    """
    binary = find(tool)
    if binary is None:
        raise StartError(f"no {tool}; make tools fetches it")
    started = subprocess.Popen(
        [binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield Server(tool, started, (port,))
    finally:
        _stop(started)


def _start(
    command: Sequence[str], core: int, env: Mapping[str, str] | None
) -> "subprocess.Popen[str]":
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # inherited: none of its threads is ever elsewhere
    try:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
    finally:
        os.sched_setaffinity(0, ours)


def _ports(process: "subprocess.Popen[str]") -> Iterator[int]:
    assert process.stdout
    for line in process.stdout:
        found = _ADDRESS.search(line.rstrip())
        if found:
            yield int(found[1])


def _stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()

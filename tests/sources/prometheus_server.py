"""A real Prometheus for tests, on loopback, with what it scrapes under the test's control."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from keda_scaler.sources.promapi import SETTLED_SECONDS

ROOT = Path(__file__).parents[2]
STOP_SECONDS = 10
SCRAPED_SECONDS = 30

_CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: services
  file_sd_configs: [{{files: ["{folder}/services-*.json"], refresh_interval: 1s}}]
- job_name: pods
  file_sd_configs: [{{files: ["{folder}/pods-*.json"], refresh_interval: 1s}}]
"""


def tool_binary(name: str) -> Path:
    """Find the binary of a tool; without one the test is skipped, but never where CI is set."""
    local = ROOT / ".cache" / "tools" / "bin" / name
    found = local if local.exists() else shutil.which(name)
    if found is None:
        reason = f"no {name}: neither .cache/tools/bin/{name} nor on PATH"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found)


_UNASKED_PORTS = range(20_000, 32_000)
"""Below those that Linux gives to whoever asks for any: no other test's server gets one of them
between our look and the moment at which something listens."""


def free_port() -> int:
    """Give a port of loopback that nobody listens on."""
    while True:
        port = random.choice(_UNASKED_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator["PrometheusProcess"]:
    """Run a Prometheus for the tests of a file."""
    process = PrometheusProcess(tmp_path_factory.mktemp("prometheus"))
    yield process
    process.stop()


class PrometheusProcess:
    """A running Prometheus with two jobs, `services` and `pods`, that scrape every second.

    Changes of its targets take it up to ten seconds: it looks at them every five.
    """

    def __init__(self, folder: Path) -> None:
        binary = tool_binary("prometheus")
        self._folder = folder
        self._scraped: dict[tuple[str, str], int] = {}
        config = folder / "prometheus.yml"
        config.write_text(_CONFIG.format(folder=folder))
        self._remember_scrapes()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [
                binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--scrape.discovery-reload-interval=100ms",  # hidden; made for tests
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def _remember_scrapes(self) -> None:
        """Have it scrape something for a while already: one that is new proves nothing."""
        now = int(time.time())
        times = range(now - 2 * int(SETTLED_SECONDS), now, 15)
        samples = "".join(f'up{{job="before"}} 1 {at}\n' for at in times)
        file = self._folder / "before.om"
        file.write_text(f"# TYPE up gauge\n{samples}# EOF\n")
        command = ("tsdb", "create-blocks-from", "openmetrics", file, self._folder / "data")
        subprocess.run([tool_binary("promtool"), *command], check=True, capture_output=True)

    def scrape(
        self, job: str, namespace: str, pods: Mapping[str, str], called: str | None = None
    ) -> None:
        """Set which addresses a job scrapes in a namespace: pods by address, all at once.

        `called` is the label job of their series; None: the job's own name.
        """
        groups = [
            {
                "targets": [address],
                "labels": {"namespace": namespace, "pod": pod, "job": called or job},
            }
            for address, pod in pods.items()
        ]
        self._scraped[job, namespace] = len(pods)
        new = self._folder / f"{job}-{namespace}.new"
        new.write_text(json.dumps(groups))
        new.replace(self._folder / f"{job}-{namespace}.json")

    def wait_scraped(self) -> None:
        """Wait until all that it is to scrape has been scraped, and nothing else is any more."""
        wanted = sum(self._scraped.values())
        end = time.monotonic() + SCRAPED_SECONDS
        while (found := self._healthy()) != wanted:
            assert time.monotonic() < end, f"{found} of {wanted} targets are scraped"
            time.sleep(0.05)

    def _healthy(self) -> int:
        with contextlib.suppress(OSError):  # not listening yet
            url = f"{self.url}/api/v1/targets?state=active"
            with urllib.request.urlopen(url, timeout=STOP_SECONDS) as answer:
                targets = json.load(answer)["data"]["activeTargets"]
                return sum(target["health"] == "up" for target in targets)
        return 0

    def stop(self) -> None:
        """Stop it; harmless when it is stopped."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_SECONDS)
        self._log.close()

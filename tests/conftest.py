"""What every test runs under."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import settings

import keda_scaler

pytest_plugins = ["gpu_fixtures", "prometheus_server"]

settings.register_profile("default", deadline=None, max_examples=100)
settings.register_profile("ci", deadline=None, max_examples=200, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=20_000, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_report_header() -> str:
    """Say which package is tested: `make test` has the wheel tested, an editor the working tree."""
    return f"keda_scaler: {Path(keda_scaler.__file__).parent}"


def pytest_configure() -> None:
    """Leave no event loop behind that a test did not ask for: it would count as leaked."""
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def _no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which the package blocks the event loop: every caller would wait."""
    if request.node.get_closest_marker("blocks"):
        yield
        return
    with blockbuster_ctx("keda_scaler") as detector:
        # The garbage collector may free a gRPC channel anywhere, and that takes a lock.
        for name in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
            detector.functions[name].deactivate()
        yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let nothing be skipped in CI, but what needs pages that are not ours to ship."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None:
        return
    reasons = [str(report.longrepr) for report in reporter.stats.get("skipped", [])]
    if any("other people's pages" not in reason for reason in reasons):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

"""One verification: a real scaler in the simulated stack, under locust's load, phase by phase."""

import asyncio
import contextlib
import csv
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from keda_scaler.demo.gateway import Gateway
from keda_scaler.demo.journal import Change, Journal
from keda_scaler.demo.stack import Stack, running
from keda_scaler.keda.cluster import Step
from keda_scaler.sim.requests import Request
from load_checks import (
    Check,
    Loaded,
    LoadPlan,
    Look,
    Phase,
    baseline,
    cold_start,
    no_errors,
    scale_down,
    scale_up,
)

LOCUSTFILE = Path(__file__).parents[2] / "manifests" / "loadtest" / "locustfile.py"
"""The one that users run against their own gateway."""

LOOK_SECONDS = 0.05
"""Between two looks."""

LATE_SECONDS = 30.0
"""How much longer than its budget the way down is watched, to tell how late it was."""


class LoadError(Exception):
    """The load could not be run, so that nothing is verified."""


async def verify(
    plan: LoadPlan, tell: Callable[[Change], None], found: Callable[[Check], None]
) -> None:
    """Run everything; `tell` hears of every change, and `found` of every check.

    Raises:
        LoadError: locust did not run.
        TimeoutError: `limit_seconds` are over.

    """
    journal = Journal(tell)
    with journal.reading_the_log():
        async with asyncio.timeout(plan.limit_seconds), running(plan, journal) as stack:
            stack.autoscaler.on_step = lambda step: journal.add(step.by, _words(step))
            await _phases(plan, stack, found)


async def _phases(plan: LoadPlan, stack: Stack, found: Callable[[Check], None]) -> None:
    stack.journal.add("requests", "one, at zero, so that there is a replica")
    stack.gateway.submit(Request(plan.prompt_tokens, 1))
    while stack.gateway.under_way:
        await asyncio.sleep(LOOK_SECONDS)
    stack.journal.add("requests", "one, at one replica")
    async with kept_awake(plan, stack.gateway):
        alone = await _ask_once(plan, stack)
    found(baseline(alone))
    stack.journal.add("requests", f"{plan.users} users ask for {plan.seconds} s")
    async with kept_awake(plan, stack.gateway, until_asked=True):
        load = await _load(
            plan, stack, users=plan.users, spawn_rate=plan.users, run_time=f"{plan.seconds}s"
        )
    found(scale_up(load, plan))
    found(no_errors(load))
    stack.journal.add("requests", "all are answered")
    async with _looking(stack) as looks:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(plan.down_budget + LATE_SECONDS):
                while looks[-1].wanted or looks[-1].pods:
                    await asyncio.sleep(LOOK_SECONDS)
    found(scale_down([*load.looks, *looks], plan))
    stack.journal.add("requests", "one, at zero")
    found(cold_start(await _ask_once(plan, stack), plan))


def _words(step: Step) -> str:
    return f"{step.before} -> {step.after}: {step.reason}"


async def _ask_once(plan: LoadPlan, stack: Stack) -> Phase:
    return await _load(plan, stack, users=1, requests=1)


async def _load(plan: LoadPlan, stack: Stack, **flags: object) -> Phase:
    """Run locust with these flags to its end."""
    async with _looking(stack) as looks:
        loaded = await run_locust(plan, stack.gateway.url, flags)
    return Phase(loaded, looks)


@contextlib.asynccontextmanager
async def kept_awake(
    plan: LoadPlan, gateway: Gateway, *, until_asked: bool = False
) -> AsyncIterator[None]:
    """Let a request arrive whenever none did for half the idle window: locust is slow to begin.

    With `until_asked` only until there is a request of somebody else.
    """

    async def keep() -> None:
        expected = gateway.arrived
        while not until_asked or gateway.arrived == expected:
            arrived = gateway.arrived
            await asyncio.sleep(plan.idle_seconds / 2)
            if gateway.arrived == arrived:
                gateway.submit(Request(plan.prompt_tokens, 1))
                expected += 1

    async with _beside(keep(), "keep awake"):
        yield


@contextlib.asynccontextmanager
async def _looking(stack: Stack) -> AsyncIterator[list[Look]]:
    """Look at the stack again and again, from now on."""
    looks = [_look(stack)]

    async def look_on() -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            looks.append(_look(stack))

    async with _beside(look_on(), "looks"):
        yield looks
        looks.append(_look(stack))


@contextlib.asynccontextmanager
async def _beside(endless: Coroutine[None, None, None], name: str) -> AsyncIterator[None]:
    """Run something until what is within is over."""
    task = asyncio.create_task(endless, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _look(stack: Stack) -> Look:
    return Look(
        stack.journal.seconds,
        stack.autoscaler.cluster.replicas,
        len(stack.deployment.ready()),
        len(stack.deployment.pods),
        stack.gateway.arrived,
        stack.gateway.under_way,
    )


async def run_locust(plan: LoadPlan, host: str, flags: Mapping[str, object]) -> Loaded:
    """Run the locustfile in a process of its own: locust replaces what Python's sockets are.

    Raises:
        LoadError: it could not; that requests failed is none.

    """
    with tempfile.TemporaryDirectory(prefix="keda-scaler-load-") as folder:
        stats = Path(folder) / "stats"
        every = {
            "locustfile": LOCUSTFILE,
            "host": host,
            "model": plan.model.name,
            "prompt_tokens": plan.prompt_tokens,
            "max_tokens": plan.max_tokens,
            "stop_timeout": round(plan.limit_seconds),
            "json_file": stats,
            "csv": stats,
            "exit_code_on_error": 0,
            **flags,
        }
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in every.items()]
        # What the environment says of locust is not for this run.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LOCUST_", "LOAD_"))}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", "--headless", "--only-summary", *arguments),
            cwd=folder,
            env=kept,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise LoadError(f"locust ended with {process.returncode}:\n{errors.decode()[-2000:]}")
        return read(stats)


def read(stats: Path) -> Loaded:
    """Read what locust wrote under this name with `--json-file` and `--csv`."""
    rows = json.loads(stats.with_name(f"{stats.name}.json").read_text())
    with stats.with_name(f"{stats.name}_failures.csv").open(newline="") as failures:
        return _loaded(rows, csv.DictReader(failures))


def _loaded(rows: Iterable[Mapping[str, Any]], failures: Iterable[Mapping[str, str]]) -> Loaded:
    by_name = {(row["method"], row["name"]): row for row in rows}
    statuses = {
        name: row["num_requests"] for (kind, name), row in by_name.items() if kind == "status"
    }
    return Loaded(
        statuses,
        {_unwrapped(row["Error"]): int(row["Occurrences"]) for row in failures},
        _times(by_name.get(("TTFT", "first token"))),
        _times(by_name.get(("ITL", "mean of an answer"))),
    )


def _unwrapped(error: str) -> str:
    """Give the text of an error; locust writes it as a call of its own exception."""
    return error.removeprefix("CatchResponseError('").removesuffix("')")


def _times(row: Mapping[str, Any] | None) -> dict[float, int]:
    counts: Mapping[str, int] = {} if row is None else row["response_times"]
    return {float(time): count for time, count in counts.items()}

"""Long work shares the event loop: with those who want it, and with nobody else."""

import asyncio
import time

import pytest

from keda_scaler import turns
from keda_scaler.turns import Turns


def busy(seconds: float) -> None:
    """Work."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def test_others_have_more_of_the_loop_while_they_want_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Work of so long is followed by several times as much of others', in many rounds."""
    monkeypatch.setattr(turns, "IDLE_SECONDS", 0.0)
    rounds = 0

    async def other() -> None:
        nonlocal rounds
        while True:
            busy(turns.WORK_SECONDS / 5)
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    ours = Turns()
    for _ in range(10):
        busy(turns.WORK_SECONDS)
        await ours.take()
    task.cancel()

    assert rounds >= 5 * turns.REST_SHARE


async def test_a_call_that_takes_short_rounds_to_accept_has_its_turn() -> None:
    """It is not taken for nobody because little happens in each of them."""
    ours = Turns()
    accepted = asyncio.Event()

    async def call() -> None:
        for _ in range(6):
            await asyncio.sleep(0)
        accepted.set()

    busy(turns.WORK_SECONDS)
    task = asyncio.create_task(call())
    await ours.take()

    assert accepted.is_set()
    await task


async def test_work_goes_on_while_nobody_wants_the_loop() -> None:
    """Idle rounds end the rest, and a piece of work that is short needs none."""
    ours = Turns()
    rounds = 0

    async def counts() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(counts())
    await ours.take()
    assert rounds == 0
    busy(20 * turns.WORK_SECONDS)
    began = time.perf_counter()
    await ours.take()
    task.cancel()

    assert rounds >= 1
    assert time.perf_counter() - began < 20 * turns.WORK_SECONDS * turns.REST_SHARE

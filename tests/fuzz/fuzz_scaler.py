"""A whole scaler in a thread of its own, so that examples of Hypothesis can ask it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keda_scaler.app import App
from keda_scaler.settings import load_settings

TOKEN = "models-0123456789abcdef"


@dataclass
class Running:
    """Where it listens."""

    grpc_port: int
    http_port: int


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Running]:
    """Run it while inside."""
    tokens = folder / "tokens"
    tokens.write_text(f"models {TOKEN}\n")
    started, ports = threading.Event(), list[int]()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    settings = load_settings(
        {
            "grpc_address": "127.0.0.1:0",
            "http_address": "127.0.0.1:0",
            "allow_address": ["127.0.0.0/8"],
            "prometheus": ["main=http://127.0.0.1:9"],
            "report_tokens": tokens,
        }
    )

    async def serve() -> None:
        async with App(settings) as app:
            ports[:] = app.grpc_port, app.http_port
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()], name="scaler")
    thread.start()
    try:
        assert started.wait(30)
        yield Running(*ports)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()

"""A real Chromium for tests, driven over its DevTools protocol, with pictures kept in .cache."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from prometheus_server import ROOT, tool_binary

PICTURES = ROOT / ".cache" / "screenshots"
ANSWER_SECONDS = 20

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--hide-scrollbars", "--force-device-scale-factor=1", "--remote-debugging-port=0"),
)


class LeftError(Exception):
    """The page was left for another while it was asked something."""


class Page:
    """One tab of its own, with no cookies or history of another."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session: str) -> None:
        self._socket = socket
        self._session = session
        self._numbers = count(1)
        self.problems: list[str] = []
        """What the browser complained about: errors of scripts, and what the policy forbids."""

    async def command(self, method: str, **parameters: Any) -> Any:
        """Send a command, and give its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json(message | {"sessionId": self._session})
        return (await self._receive(lambda got: got.get("id") == number))["result"]

    async def _receive(self, wanted: Any) -> Any:
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                got = json.loads(await self._socket.receive_str())
                if got.get("sessionId") != self._session:
                    continue
                if got.get("method") == "Runtime.exceptionThrown":
                    self.problems.append(json.dumps(got["params"]))
                if got.get("method") == "Log.entryAdded":
                    entry = got["params"]["entry"]
                    if entry["level"] == "error":
                        self.problems.append(f"{entry['text']} {entry.get('url', '')}")
                if "error" in got and "navigated" in got["error"]["message"]:
                    raise LeftError
                assert "error" not in got, got
                if wanted(got):
                    return got

    async def look(
        self, *, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True
    ) -> None:
        """Set the size of the window and what its user prefers."""
        for domain in ("Page", "Runtime", "Log"):
            await self.command(f"{domain}.enable")
        phone = width < 600
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.command("Emulation.setEmulatedMedia", features=[scheme])
        await self.command("Emulation.setScriptExecutionDisabled", value=not scripts)

    async def open(self, url: str) -> None:
        """Open a page, and wait until it is loaded."""
        answer = await self.command("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        await self._receive(lambda got: got.get("method") == "Page.loadEventFired")

    async def evaluate(self, expression: str) -> Any:
        """Give the value of an expression; also where scripts of the page do not run."""
        options = {"returnByValue": True, "awaitPromise": True}
        answer = await self.command("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                with contextlib.suppress(LeftError):
                    if await self.evaluate(expression):
                        return
                await asyncio.sleep(0.02)

    async def keep_picture(self, name: str, *, whole: bool = False) -> Path:
        """Take a picture of what is seen, or of the whole page."""
        size = (await self.command("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"clip": size | {"scale": 1}, "captureBeyondViewport": True} if whole else {}
        shot = await self.command("Page.captureScreenshot", format="png", **clip)
        await asyncio.to_thread(PICTURES.mkdir, parents=True, exist_ok=True)
        file = PICTURES / f"{name}.png"
        await asyncio.to_thread(file.write_bytes, base64.b64decode(shot["data"]))
        return file


class Browser:
    """A running Chromium."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    @contextlib.asynccontextmanager
    async def page(self, **look: Any) -> AsyncIterator[Page]:
        """Open a tab; see `Page.look`."""
        control = Page(self._socket, "")
        context = await _root(control, "Target.createBrowserContext")
        target = await _root(control, "Target.createTarget", url="about:blank", **context)
        session = await _root(control, "Target.attachToTarget", **target, flatten=True)
        page = Page(self._socket, session["sessionId"])
        await page.look(**look)
        yield page
        await _root(control, "Target.closeTarget", **target)


async def _root(control: Page, method: str, **parameters: Any) -> Any:
    """Send a command to the browser itself."""
    number = 10**6 + next(control._numbers)
    await control._socket.send_json({"id": number, "method": method, "params": parameters})
    async with asyncio.timeout(ANSWER_SECONDS):
        while True:
            got = json.loads(await control._socket.receive_str())
            if got.get("id") == number:
                assert "error" not in got, got
                return got["result"]


@contextlib.asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Browser]:
    """Run Chromium with a profile in a folder."""
    binary = tool_binary("chromium")
    process = await asyncio.create_subprocess_exec(
        binary,
        *_OPTIONS,
        f"--user-data-dir={folder}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        address = await _address(folder / "DevToolsActivePort")
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            yield Browser(socket)
    finally:
        process.terminate()
        await process.wait()


async def _address(file: Path) -> str:
    """Wait until it says where it listens."""
    async with asyncio.timeout(ANSWER_SECONDS):
        while True:
            with contextlib.suppress(OSError):
                lines = (await asyncio.to_thread(file.read_text)).split()
                if len(lines) == 2:
                    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            await asyncio.sleep(0.02)

"""Reload: settings are read again on SIGHUP, and when their file has changed.

The file is read every few seconds and compared. That also notices what a notification misses: the
file of a ConfigMap is a link to a link, and Kubernetes replaces the latter. One reload happens at a
time. Settings that are wrong change nothing.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from keda_scaler.errors import SettingsError
from keda_scaler.settings import Origin, Settings, taken_up

LOOK_SECONDS = 5.0
"""How often the file is looked at. Kubernetes itself takes about a minute to bring a change."""

_log = structlog.get_logger()


class Reloader:
    """Reads settings again, and has those that changed taken up."""

    def __init__(
        self,
        settings: Settings,
        origin: Origin,
        take_up: Callable[[Settings], Awaitable[None]],
        record: Callable[[str], None],
    ) -> None:
        """Take the settings that the server runs with.

        `record` is told `ok`, `error` or `unchanged`.
        """
        self._settings = settings
        self._origin = origin
        self._take_up = take_up
        self._record = record
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have the settings read again soon."""
        self._asked.set()

    async def run(self) -> None:
        """Look and reload until cancelled."""
        seen: bytes | None = None
        while True:
            asked = await self._look_is_due()
            content = await asyncio.to_thread(self._origin.content)
            if asked or content != seen:
                seen = content
                await self._reload(content, asked=asked)

    async def _look_is_due(self) -> bool:
        """Wait until it is time to look; say whether somebody asked for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS if self._origin.config else None):
                await self._asked.wait()
        asked = self._asked.is_set()
        self._asked.clear()
        return asked

    async def _reload(self, content: bytes | None, *, asked: bool) -> None:
        try:
            await self._read_again(content, asked=asked)
        except SettingsError as error:
            _log.error("settings are wrong, those before stay", problems=str(error))
            self._record("error")
        except Exception:  # noqa: BLE001  # the old settings go on; later ones may be right
            _log.exception("settings were not taken up by our fault; please report it")
            self._record("error")

    async def _read_again(self, content: bytes | None, *, asked: bool) -> None:
        found = await asyncio.to_thread(self._origin.load, content)
        settings, changed, refused = taken_up(self._settings, found)
        for name in refused:
            _log.warning("a setting has changed and needs a restart", setting=name)
        if not changed:
            self._record("unchanged")
            if asked:
                _log.info("settings were read again, nothing to take up")
            return
        await self._take_up(settings)
        self._settings = settings
        _log.info("settings were taken up", changed=changed)
        self._record("ok")

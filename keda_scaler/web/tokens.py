"""Bearer tokens: which namespaces each one may speak for, or see.

The file has one `NAMESPACE TOKEN` a line. It is read again when it has changed, by its content:
kubelet replaces mounted files through symbolic links. What cannot be used changes nothing.
"""

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from keda_scaler.errors import SettingsError
from keda_scaler.sources.sink import Clock

ANY = "*"
"""Stands for every namespace."""

MAX_FILE_BYTES = 2**20
"""Several thousand tokens."""

CHECK_SECONDS = 1.0
"""How often the file is looked at, while requests come; also the longest wait for it."""

_LINE = re.compile(r"(\*|[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)\s+([-A-Za-z0-9._~+/]{16,512}=*)")
"""A token as RFC 6750 writes it, in section 2.1."""

_log = structlog.get_logger(__name__)

_Granted = Mapping[bytes, frozenset[str]]


class Tokens:
    """The tokens of a file."""

    def __init__(
        self, path: Path, clock: Clock = time.monotonic, setting: str = "--report-tokens"
    ) -> None:
        """Read the file. `setting` is what names it, for people.

        Raises:
            SettingsError: when it cannot be used.

        """
        self._path = path
        self._setting = setting
        self._clock = clock
        # Tokens are looked up by a digest that nobody outside can compute, so that the time it
        # takes says nothing about them.
        self._key = secrets.token_bytes(32)
        self._content = self._read()
        self._granted = self._parse(self._content)
        self._checked_at = self._clock()
        self._checking = asyncio.Lock()
        self._problem = ""

    async def namespaces(self, token: str) -> frozenset[str]:
        """Say which namespaces a token may speak for, perhaps `ANY`; none: it is unknown."""
        async with self._checking:
            if self._clock() >= self._checked_at + CHECK_SECONDS:
                await self._check()
        return self._granted.get(self._digest(token), frozenset())

    async def _check(self) -> None:
        """Take a changed file up."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                content = await asyncio.to_thread(self._read)
            if content != self._content:
                self._granted = self._parse(content)
                self._content = content
                _log.info("tokens", setting=self._setting, taken_up=True)
            self._problem = ""
        except (SettingsError, TimeoutError) as error:
            problem = str(error) or "the file cannot be read in time"
            if problem != self._problem:
                _log.error("tokens", setting=self._setting, taken_up=False, error=problem)
            self._problem = problem
        self._checked_at = self._clock()

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise SettingsError(f"{self._setting} {self._path}: {error.strerror}") from error
        if len(content) > MAX_FILE_BYTES:
            raise SettingsError(f"{self._setting} {self._path}: over {MAX_FILE_BYTES} bytes")
        return content

    def _parse(self, content: bytes) -> _Granted:
        granted: dict[bytes, frozenset[str]] = {}
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            entry = line.partition("#")[0].strip()
            found = _LINE.fullmatch(entry)
            if found:
                namespace, token = found.groups()
                digest = self._digest(token)
                granted[digest] = granted.get(digest, frozenset()) | {namespace}
            elif entry:  # may be a secret, and is not repeated
                raise SettingsError(
                    f"{self._setting} {self._path}: line {number} is not NAMESPACE TOKEN, with a "
                    f"token of 16 to 512 letters, digits and -._~+/, or {ANY} for all namespaces"
                )
        if not granted:
            raise SettingsError(f"{self._setting} {self._path}: no token in it")
        return granted

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode(errors="replace"), key=self._key).digest()

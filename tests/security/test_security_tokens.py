"""Reporters' tokens: how long a wrong one takes says nothing about the right ones."""

import asyncio
from pathlib import Path
from typing import NoReturn

from keda_scaler.web.tokens import Tokens

TOKEN = "models-0123456789abcdef"


class Untouchable(str):
    """A text that may be encoded, but neither compared nor looked up."""

    __slots__ = ()

    def __eq__(self, other: object) -> NoReturn:
        raise AssertionError("it was compared")

    def __hash__(self) -> NoReturn:
        raise AssertionError("it was looked up")


async def test_a_token_is_looked_up_by_a_digest_that_nobody_can_compute(tmp_path: Path) -> None:
    """The token itself is never compared, and the digest's key is random for every process."""
    file = tmp_path / "tokens"
    await asyncio.to_thread(file.write_text, f"models {TOKEN}\n")
    one, two = [await asyncio.to_thread(Tokens, file) for _ in range(2)]

    assert await one.namespaces(Untouchable(TOKEN)) == {"models"}
    assert await one.namespaces(Untouchable(TOKEN[:-1] + "x")) == frozenset()
    assert one._granted.keys().isdisjoint(two._granted.keys())
    assert {len(digest) for digest in one._granted} == {64}

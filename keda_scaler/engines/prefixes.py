"""Names that are an engine's behind a prefix, as platforms and proxies put before them. Pure.

They are not read: whoever renames families may have changed more of them. But a page that has them
is no page without an engine, and its users look for the name that they see.
"""

import re
from functools import lru_cache

_LOOKED_AT = 2**20
"""Bytes of a page that are looked at; a vLLM page has 51 kB."""


def prefixed(body: bytes, names: frozenset[str]) -> str | None:
    """Give the first name on a page that is one of these behind a prefix."""
    match = _prefixed(names).search(b"\n" + body[:_LOOKED_AT])
    return None if match is None else match[1].decode()


@lru_cache(maxsize=4)
def _prefixed(names: frozenset[str]) -> re.Pattern[bytes]:
    known = "|".join(map(re.escape, sorted(names)))
    # Words of a prefix are tried at their ends alone, so that a page takes time by its length.
    prefix = r"(?:[a-zA-Z0-9]++[_:]++){1,8}?"
    return re.compile(rf"\n[ \t]*+({prefix}(?:{known}))(?=[ \t{{])".encode())

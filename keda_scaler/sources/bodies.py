"""Bodies of HTTP answers, read up to a bound."""

import zlib

import aiohttp

from keda_scaler.errors import PageError

PACKED = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""How bodies may be packed, and what `zlib` calls that."""

_CHUNK = 64 * 2**10


async def read_at_most(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Read a body; None: it is longer than `most` bytes, and the rest of it was not read."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)


async def unpacked_at_most(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Read a body of a session that unpacks nothing itself, and unpack it; None: as above.

    aiohttp takes a gzip stream that ends early for a whole one, and what was lost of a page would
    look as if it had never been there.

    Raises:
        PageError: when the body was cut off, or packed in a way that nobody asked for.

    """
    packed = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packed == "identity":
        return await read_at_most(response, most)
    if packed not in PACKED:
        raise PageError("the page is packed in a way that was not asked for")
    body, stream = bytearray(), None
    try:
        async for chunk in response.content.iter_chunked(_CHUNK):
            rest = chunk
            while rest:
                if stream is None or stream.eof:  # one stream may follow another
                    stream = zlib.decompressobj(_window(packed, rest))
                body += stream.decompress(rest, most + 1 - len(body))
                if len(body) > most:
                    return None
                rest = stream.unused_data
    except zlib.error:
        raise PageError(f"the page cannot be unpacked: it is no {packed}") from None
    if stream is None or not stream.eof:
        raise PageError(f"the page was cut off: its {packed} stream does not end")
    return bytes(body)


def _window(packed: str, start: bytes) -> int:
    """Say what `zlib` calls a stream; some servers leave the header of `deflate` out."""
    bare = packed == "deflate" and start[0] & 0x0F != zlib.DEFLATED
    return -zlib.MAX_WBITS if bare else PACKED[packed]

"""Bodies of HTTP answers, read up to a bound."""

import aiohttp

_CHUNK = 64 * 2**10


async def read_at_most(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Read a body; None: it is longer than `most` bytes, and the rest of it was not read."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)

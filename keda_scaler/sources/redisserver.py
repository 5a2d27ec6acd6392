"""Where Redis or Valkey is, and how connections to it are made."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError  # noqa: A004  # that of redis is meant throughout

ANSWER_SECONDS = 1.0
"""One answer, connection and waiting for one included; within a cluster it takes a millisecond."""

MAX_CONNECTIONS = 8
"""Connections of one scaler; the rest wait."""

_MAX_PASSWORD_BYTES = 64 * 2**10


class _PasswordFile(CredentialProvider):
    """Reads the password anew for every connection."""

    def __init__(self, user: str | None, path: Path) -> None:
        self._user = user
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Read the file.

        Raises:
            ConnectionError: when it cannot be read; that of redis, which then gives the connection
                up.

        """
        try:
            with self._path.open("rb") as file:
                password = file.read(_MAX_PASSWORD_BYTES).decode().strip()
        except (OSError, ValueError) as error:
            raise ConnectionError(f"the password file cannot be read: {error}") from error
        return (password,) if self._user is None else (self._user, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Read the file, in a thread."""
        return await asyncio.to_thread(self.get_credentials)


@dataclass(frozen=True, slots=True)
class RedisServer:
    """Where Redis or Valkey is."""

    url: str
    """`redis://[USER@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS."""

    password_file: Path | None = None
    """Read at every connection, so that a new password is taken up."""

    ca_file: Path | None = None
    """Certificates to trust; None: those of the system."""

    def pool(self) -> BlockingConnectionPool:
        """Give connections; none is made before it is needed."""
        url = urlsplit(self.url)
        options: dict[str, Any] = {"connection_class": Connection}
        if url.scheme == "rediss":
            ca_file = str(self.ca_file) if self.ca_file else None
            options = {"connection_class": SSLConnection, "ssl_ca_certs": ca_file}
        if self.password_file is not None:
            options["credential_provider"] = _PasswordFile(url.username, self.password_file)
        elif url.username:
            options["username"] = url.username
        return BlockingConnectionPool(
            max_connections=MAX_CONNECTIONS,
            timeout=ANSWER_SECONDS,
            host=url.hostname,
            port=url.port or 6379,
            db=int(url.path.strip("/") or 0),
            protocol=2,
            driver_info=None,  # looked up on the disk for every connection
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            **options,
        )

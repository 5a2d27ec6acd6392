"""The Kubernetes API server: pages and watches of EndpointSlices, as bytes.

Errors of the client library and of the connection end here, as `ApiError`s. Everything is
bounded: how long an answer may take, how large it may be, how many lists run at once.
"""

import asyncio
import importlib
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from keda_scaler import __version__
from keda_scaler.errors import SourceError
from keda_scaler.sources.bodies import read_at_most

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient, Configuration

Configure = Callable[[], Awaitable["ApiClient"]]
"""Builds a client of the API server; called when it is first needed, and when it is refused."""

_PAGE_SLICES = 100
"""Slices of one page of a list: a page is parsed in one go, and the loop waits meanwhile."""

_PAGE_BYTES = 64 * 2**20
"""One page, of a server that does not heed the limit either."""

_LINE_BYTES = 8 * 2**20
"""One watch event. etcd stores at most 1.5 MiB an object, in a form several times denser."""

_MAX_LISTS = 8
"""Lists that run at once, so that a start with many namespaces is not a storm."""

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_CONFIGURATION_SECONDS = 10.0
"""Longest run of a kubeconfig's credential command, whose thread nobody else can end."""


@dataclass(frozen=True, slots=True)
class Timings:
    """How long things may take, and how retries are spaced. All in seconds."""

    answer: float = 10.0
    """Longest wait for the configuration, and for the head of an answer."""

    page: float = 30.0
    """Longest wait for one whole page of a list."""

    watch: float = 10.0
    """Longest watch, less up to a fifth; then the next one takes over."""

    grace: float = 5.0
    """How much longer than asked a watch may last before its connection counts as half-open."""

    settled: float = 1.0
    """How long a watch must hold until the failures before it are forgiven."""

    first_retry: float = 0.5
    """Retries wait a random part of this, doubled for every failure in a row."""

    longest_retry: float = 15.0
    """Where the doubling ends."""

    longest_retry_after: float = 60.0
    """Most of a Retry-After that is honoured."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """How retries wait; tests put their own here."""

    def delay(self, failures: int, retry_after: float | None) -> float:
        """Seconds to wait after so many failures in a row: as asked, else exponential, full jitter.

        The jitter is that of Marc Brooker, "Exponential Backoff And Jitter" (AWS, 2015): uniform
        in [0, min(longest, first * 2**n)]. Third failure in a row: between 0 and 2 seconds.
        """
        if retry_after is not None:
            least = min(retry_after, self.longest_retry_after)
            return least + random.uniform(0, self.first_retry)  # spreads load
        doubled = self.first_retry * 2 ** min(failures - 1, 16)
        return random.uniform(0, min(doubled, self.longest_retry))  # spreads load


class ApiError(SourceError):
    """An attempt to list or to watch did not work out."""

    def __init__(
        self,
        reason: str,
        *,
        resume: bool = False,
        gone: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.resume = resume
        """The last version seen is still good to go on from."""
        self.gone = gone
        """The version asked for is compacted: an expected reason to list anew."""
        self.retry_after = retry_after
        """Seconds that the API server asks us to wait; None: it does not say."""


class ApiServer:
    """The API server: one client for all namespaces, configured when first needed."""

    def __init__(self, configure: Configure, timings: Timings) -> None:
        self.lists = asyncio.Semaphore(_MAX_LISTS)
        self._configure = configure
        self._timings = timings
        self._client: ApiClient | None = None
        self._retired: ApiClient | None = None
        self._configuring = asyncio.Lock()

    async def greet(self) -> None:
        """Have the server answer something, whatever it is: what is asked next then takes no time
        for the client, its configuration and the connection.

        Raises:
            ApiError: when it does not.

        """
        client = await self._configured()
        try:
            async with asyncio.timeout(self._timings.answer):
                response = await _load().VersionApi(client).get_code(_preload_content=False)
                response.release()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(error) from error

    async def page(self, namespace: str, token: str | None) -> bytes:
        """Read a page of a list; without a token the first."""
        query = {"limit": _PAGE_SLICES, **({"_continue": token} if token else {})}
        response = await self._get("list", namespace, self._timings.page, query)
        try:
            body = await read_at_most(response, _PAGE_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(error) from error
        finally:
            response.close()
        if body is None:
            raise ApiError("a list of EndpointSlices is too large")
        return body

    async def watch(
        self, namespace: str, version: str | None, seconds: float
    ) -> aiohttp.ClientResponse:
        """Open a watch; its stream raises TimeoutError if the server does not end it in time."""
        query = {
            "watch": True,
            "resource_version": version,
            "allow_watch_bookmarks": True,
            "timeout_seconds": max(1, round(seconds)),
        }
        return await self._get("watch", namespace, seconds + self._timings.grace, query)

    async def _get(
        self, verb: str, namespace: str, seconds: float, query: dict[str, Any]
    ) -> aiohttp.ClientResponse:
        """Ask, and return once the head of the answer is there; the caller closes it."""
        client = await self._configured()
        try:
            async with asyncio.timeout(self._timings.answer):
                response = await self._ask(client, namespace, seconds, query)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(error) from error
        if response.status == 200:
            return response
        response.close()
        if response.status == 401:
            await self._forget(client)
        raise refusal(response.status, verb, namespace, response.headers.get("Retry-After"))

    @staticmethod
    async def _ask(
        client: "ApiClient", namespace: str, seconds: float, query: dict[str, Any]
    ) -> aiohttp.ClientResponse:
        # Undecoded: the client's typed models take most of the time of a large list.
        response: aiohttp.ClientResponse = await (
            _load()
            .DiscoveryV1Api(client)
            .list_namespaced_endpoint_slice(
                namespace,
                _preload_content=False,
                _request_timeout=aiohttp.ClientTimeout(total=seconds),
                **query,
            )
        )
        return response

    async def _configured(self) -> "ApiClient":
        try:
            async with asyncio.timeout(self._timings.answer), self._configuring:
                if self._client is None:
                    self._client = await self._configure()
                    self._client.user_agent = f"keda-scaler/{__version__}"
                return self._client
        except Exception as error:  # the client's readers raise whatever goes wrong within
            raise ApiError(
                f"no usable Kubernetes configuration ({type(error).__name__})"
            ) from error

    async def _forget(self, client: "ApiClient") -> None:
        """Configure anew for the next request: credentials of a kubeconfig may have expired."""
        if self._client is client:
            # The client before may still be in use by others, so it is closed one refusal later.
            self._client, self._retired, closing = None, client, self._retired
            if closing is not None:
                await closing.close()

    async def aclose(self) -> None:
        """Close all connections."""
        clients, self._client, self._retired = (self._client, self._retired), None, None
        for client in clients:
            if client is not None:
                await client.close()


async def lines(stream: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Split a stream into lines. A line cut off by the end of the stream is not given.

    Raises:
        ApiError: if a line is too long. aiohttp's own `readline` has a limit of its own, which
            depends on the version and on how the client was made.

    """
    pending = bytearray()
    async for chunk in stream.iter_any():
        pending += chunk
        if b"\n" in chunk:
            *whole, rest = pending.split(b"\n")
            pending = rest
            for line in whole:
                if line:
                    yield bytes(line)
        if len(pending) > _LINE_BYTES:
            raise ApiError("a watch event of EndpointSlices is too large")


def refusal(status: int, verb: str, namespace: str, retry_after: str | None = None) -> ApiError:
    """Turn an HTTP status, or that of an ERROR event, into a failure."""
    if status in {401, 403}:
        return ApiError(f"not allowed to {verb} EndpointSlices in namespace {namespace} (RBAC)")
    return ApiError(
        f"the Kubernetes API server answers {status} to {verb} EndpointSlices",
        resume=status == 429,
        gone=status == 410,
        retry_after=float(retry_after) if retry_after and retry_after.isdecimal() else None,
    )


def unreachable(error: Exception) -> ApiError:
    """Turn an error of the connection into a failure, without the addresses in its text."""
    return ApiError(f"cannot reach the Kubernetes API server ({type(error).__name__})", resume=True)


def at_url(url: str) -> Configure:
    """Configure a client for an API server that needs no credentials: simulated, or a proxy."""

    async def configure() -> "ApiClient":
        client = await asyncio.to_thread(_load)
        return _client(client.Configuration(host=url))

    return configure


def is_in_sight() -> bool:
    """Whether the surroundings name a cluster: a pod's service account, or KUBECONFIG."""
    return kubeconfig() is None or "KUBECONFIG" in os.environ


def kubeconfig() -> str | None:
    """Name the kubeconfig that is used, or several as KUBECONFIG does; None: in a pod, whose
    service account is used instead.
    """
    token = _SERVICE_ACCOUNT / "token"
    if "KUBERNETES_SERVICE_HOST" in os.environ and token.is_file():
        return None
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")


async def from_surroundings() -> "ApiClient":
    """Configure from the pod's service account where there is one, else from the kubeconfig."""
    return _client(await asyncio.to_thread(_configuration))


def _load() -> Any:
    """Import the client: 0.6 s and 65 MiB, which those who name no Service need not pay."""
    return importlib.import_module("kubernetes_asyncio.client")


def _client(configuration: "Configuration") -> "ApiClient":
    configuration.connection_pool_maxsize = 0  # every namespace holds one: no limit
    client: ApiClient = _load().ApiClient(configuration)
    return client


def _configuration() -> "Configuration":
    """Read the configuration; in a thread of its own, for it reads files and may run a command."""
    configuration: Configuration = _load().Configuration()
    config = importlib.import_module("kubernetes_asyncio.config")
    path = kubeconfig()
    if path is None:
        token, authority = _SERVICE_ACCOUNT / "token", _SERVICE_ACCOUNT / "ca.crt"
        config.load_incluster_config(
            configuration, token_filename=str(token), cert_filename=str(authority)
        )
        return configuration
    loading = config.load_kube_config(
        config_file=path, client_configuration=configuration, persist_config=False
    )
    asyncio.run(asyncio.wait_for(loading, _CONFIGURATION_SECONDS))
    return configuration

"""A stand-in for the Kubernetes API server: EndpointSlices, listed and watched, and its faults.

It keeps what clients rely on: every change has a version, a list names the version that it shows,
a watch gives every change after the version it names, and a lost version is answered with 410.
"""

import asyncio
import json
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from keda_scaler.sim.objects import SimulatedObjects

PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
_API_VERSION = "discovery.k8s.io/v1"
_SERVICE_LABEL = "kubernetes.io/service-name"

_MAX_EVENTS = 1_000
"""Changes that are kept for watches; older ones are compacted."""

_MAX_CONTINUES = 100
"""Lists that may be under way in pages; the tokens of older ones expire."""

Slice = dict[str, Any]
"""An EndpointSlice as JSON."""


@dataclass(frozen=True, slots=True)
class SimulatedEndpoint:
    """One endpoint of a Service. A condition of None is left out, as Kubernetes may."""

    address: str
    name: str | None = None
    """The pod's name; None: no pod is named."""

    port: int = 8000
    port_name: str = "http"
    ready: bool | None = True
    serving: bool | None = None
    terminating: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Write it as a slice does."""
        conditions = {"ready": self.ready, "serving": self.serving}
        conditions["terminating"] = self.terminating
        target = {"targetRef": {"kind": "Pod", "name": self.name}} if self.name else {}
        given = {key: value for key, value in conditions.items() if value is not None}
        return {"addresses": [self.address], "conditions": given, **target}


@dataclass(frozen=True, slots=True)
class Fault:
    """How a request goes wrong. The first of these that is set."""

    hangs: bool = False
    """It is accepted and never answered."""

    garbage: bytes | None = None
    """It is answered with 200 and this."""

    is_gone_late: bool = False
    """It is answered with 200, and then with the ERROR event of a compacted version."""

    is_silent: bool = False
    """It is answered with 200, and then with nothing, not even an end."""

    status: int = 500
    retry_after: int | None = None
    """Seconds, of the Retry-After header; None: no such header."""

    only: str | None = None
    """`list` or `watch`, if the fault is only for these."""


@dataclass(frozen=True, slots=True)
class _Event:
    version: int
    namespace: str
    line: bytes


class SimulatedCluster:
    """An API server on a local port, while entered.

    Usage:
        async with SimulatedCluster() as cluster:
            cluster.put_service("models", "llama", [SimulatedEndpoint("127.0.0.1", "llama-0")])
            ...  # a client of cluster.url
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.requests: deque[str] = deque(maxlen=1_000)
        """`list` or `watch`, for each request."""
        self.open_watches = 0
        self.objects = SimulatedObjects()
        """What else it holds."""
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self._slices: dict[str, dict[str, Slice]] = defaultdict(dict)
        self._version = 1
        self._compacted = 0
        """A watch from before this version is refused."""
        self._lost = 0
        """An open watch that has not got this far cannot go on."""
        self._events: deque[_Event] = deque()
        self._continues: OrderedDict[str, tuple[int, list[Slice]]] = OrderedDict()
        self._faults: deque[Fault] = deque()
        self._standing: Fault | None = None
        self._bookmarks = 0
        self._drops = 0
        self._is_closing = False
        self._change = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._runner is not None, "not entered"
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get(PATH, self._answer)
        self.objects.add_routes(app)
        # Handlers end with their connection, so that open_watches tells the truth.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        self._is_closing = True
        self._tell()
        await self._runner.cleanup()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of its requests and open watches."""
        while not holds():
            await self._change.wait()

    # What the cluster holds

    def put_service(
        self, namespace: str, service: str, endpoints: Sequence[SimulatedEndpoint]
    ) -> None:
        """Say which endpoints a Service has; with none it keeps an empty slice, as in Kubernetes.

        A slice's endpoints share a port and an address family, so there is one slice for each.
        """
        groups: dict[tuple[str, str, int], list[SimulatedEndpoint]] = defaultdict(list)
        for endpoint in endpoints:
            family = f"IPv{ip_address(endpoint.address).version}"
            groups[family, endpoint.port_name, endpoint.port].append(endpoint)
        slices: dict[str, Slice] = {
            f"{service}-{family.lower()}-{name or 'unnamed'}-{port}": {
                "addressType": family,
                "ports": [{"name": name, "port": port, "protocol": "TCP"}],
                "endpoints": [endpoint.to_json() for endpoint in group],
            }
            for (family, name, port), group in groups.items()
        } or {f"{service}-empty": {"addressType": "IPv4", "ports": None, "endpoints": None}}
        for name in self._slices_of(namespace, service) - slices.keys():
            self.delete_slice(namespace, name)
        for name, content in slices.items():
            known = self._slices[namespace].get(name, {})
            if any(known.get(key, ...) != value for key, value in content.items()):
                self.put_slice(namespace, service, name, content)

    def delete_service(self, namespace: str, service: str) -> None:
        """Remove a Service with all of its slices."""
        for name in self._slices_of(namespace, service):
            self.delete_slice(namespace, name)

    def put_slice(self, namespace: str, service: str, name: str, content: Slice) -> None:
        """Write one slice as it is: addressType, ports and endpoints."""
        kind = "MODIFIED" if name in self._slices[namespace] else "ADDED"
        self._version += 1
        metadata = {
            "name": name,
            "namespace": namespace,
            "labels": {_SERVICE_LABEL: service},
            "resourceVersion": str(self._version),
        }
        written = {"metadata": metadata, **content}
        self._slices[namespace][name] = written
        self._record(kind, namespace, written)

    def delete_slice(self, namespace: str, name: str) -> None:
        """Remove one slice.

        Raises:
            KeyError: if there is none.

        """
        last = self._slices[namespace].pop(name)
        self._version += 1
        metadata = {**last["metadata"], "resourceVersion": str(self._version)}
        self._record("DELETED", namespace, {**last, "metadata": metadata})

    def _slices_of(self, namespace: str, service: str) -> set[str]:
        return {
            name
            for name, content in self._slices[namespace].items()
            if content["metadata"]["labels"][_SERVICE_LABEL] == service
        }

    def _record(self, kind: str, namespace: str, content: Slice) -> None:
        self._events.append(_Event(self._version, namespace, _event(kind, content)))
        while len(self._events) > _MAX_EVENTS:
            self._compacted = self._lost = self._events.popleft().version
        self._tell()

    # What goes wrong, and what happens by itself

    def fail(self, fault: Fault, *, times: int | None = None) -> None:
        """Let the next so many requests go wrong; without a number, all until `heal`."""
        if times is None:
            self._standing = fault
        else:
            self._faults.extend([fault] * times)

    def heal(self) -> None:
        """End all faults. A request that hangs goes on hanging."""
        self._faults.clear()
        self._standing = None

    def drop_watches(self) -> None:
        """Cut the connections of all open watches."""
        self._drops += 1
        self._tell()

    def compact(self) -> None:
        """Keep only changes to come: all versions so far are gone, but open watches go on."""
        if self._events:
            self._lost = self._events[-1].version
        self._version += 1  # so that even the newest version that a client knows is gone
        self._compacted = self._version
        self._events.clear()
        self._continues.clear()
        self._tell()

    def bookmark(self) -> None:
        """Tell all watches the current version, if they allow it."""
        self._bookmarks += 1
        self._tell()

    # How it answers

    def _tell(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        verb = "watch" if _is_true(request, "watch") else "list"
        self.requests.append(verb)
        self._tell()
        fault = self._next_fault(verb)
        if fault is not None:
            return await self._answer_wrongly(request, fault)
        return await self._watch(request) if verb == "watch" else self._list(request)

    def _next_fault(self, verb: str) -> Fault | None:
        for fault in self._faults:
            if fault.only in {None, verb}:
                self._faults.remove(fault)
                return fault
        standing = self._standing
        return standing if standing is not None and standing.only in {None, verb} else None

    async def _answer_wrongly(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        if fault.hangs:
            await self._closing()
        if fault.garbage is not None:
            return web.Response(body=fault.garbage)
        if fault.is_gone_late:
            return web.Response(body=_event("ERROR", _status(410)))
        if fault.is_silent:
            response = web.StreamResponse()
            await response.prepare(request)
            await self._closing()
            return response
        return _refuse(fault.status, fault.retry_after)

    async def _closing(self) -> None:
        while not self._is_closing:
            await self._change.wait()

    def _list(self, request: web.Request) -> web.Response:
        limit = int(request.query.get("limit", "0"))
        token = request.query.get("continue")
        if token:
            if token not in self._continues:
                return _refuse(410)
            version, items = self._continues.pop(token)
        else:
            slices = self._slices[request.match_info["namespace"]]
            version, items = self._version, [slices[name] for name in sorted(slices)]
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            token = f"{version}-{len(items) - limit}-{len(self.requests)}"
            self._continues[token] = (version, items[limit:])
            if len(self._continues) > _MAX_CONTINUES:
                self._continues.popitem(last=False)
            metadata |= {"continue": token, "remainingItemCount": len(items) - limit}
            items = items[:limit]
        body = {"kind": "EndpointSliceList", "apiVersion": _API_VERSION, "metadata": metadata}
        return web.json_response(body | {"items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        namespace = request.match_info["namespace"]
        after = int(request.query.get("resourceVersion") or 0)
        if 0 < after < self._compacted:
            return _refuse(410)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        drops = self._drops
        try:
            await response.prepare(request)
        except ConnectionResetError:  # whoever watches is gone already
            return response
        if not after:  # as a real one: from any version, with what there is first
            after = self._version
            for content in list(self._slices[namespace].values()):
                await response.write(_event("ADDED", content))
        self.open_watches += 1
        self._tell()
        try:
            await self._stream(request, response, after, drops)
        finally:
            self.open_watches -= 1
            self._tell()
        return response

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, after: int, drops: int
    ) -> None:
        """Write what happens after a version, until the watch is dropped or cannot go on."""
        namespace, bookmarks = request.match_info["namespace"], self._bookmarks
        allows_bookmarks = _is_true(request, "allowWatchBookmarks")
        seconds = float(request.query.get("timeoutSeconds", "1800"))
        deadline = asyncio.get_running_loop().time() + seconds
        while not self._is_closing:
            if drops != self._drops:
                assert request.transport is not None
                request.transport.abort()
                return
            if after < self._lost:
                await response.write(_event("ERROR", _status(410)))
                return
            change, version, asked = self._change, self._version, self._bookmarks
            for event in [event for event in self._events if event.version > after]:
                if event.namespace == namespace:
                    await response.write(event.line)
            after = version
            if asked != bookmarks and allows_bookmarks:
                await response.write(_bookmark(after))
            bookmarks = asked
            try:
                async with asyncio.timeout_at(deadline):
                    await change.wait()
            except TimeoutError:
                if allows_bookmarks:
                    await response.write(_bookmark(after))
                return


def _is_true(request: web.Request, name: str) -> bool:
    return request.query.get(name, "").lower() in {"true", "1"}


def _event(kind: str, content: Mapping[str, Any]) -> bytes:
    header = {} if kind == "ERROR" else {"kind": "EndpointSlice", "apiVersion": _API_VERSION}
    return json.dumps({"type": kind, "object": {**header, **content}}).encode() + b"\n"


def _bookmark(version: int) -> bytes:
    return _event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def _status(code: int) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": "Expired" if code == 410 else "Simulated",
        "message": "simulated",
        "code": code,
    }


def _refuse(status: int, retry_after: int | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response(_status(status), status=status, headers=headers)

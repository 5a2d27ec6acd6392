"""Objects of any kind on the simulated API server: listed in pages, as KEDA's own are."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from aiohttp import web

_KIND = "/apis/{group}/{version}/{plural}"
_IN_NAMESPACE = "/apis/{group}/{version}/namespaces/{namespace}/{plural}"


class SimulatedObjects:
    """What the API server holds beside EndpointSlices. Kinds that it was never given are unknown.

    Usage:
        cluster.objects.put("keda.sh/v1alpha1", "scaledobjects", scaled_object)
    """

    def __init__(self) -> None:
        self.forbidden: set[str] = set()
        """Plurals that may not be listed."""

        self.requests: list[str] = []
        """The path and query of each request."""

        self._held: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)

    def put(self, api_version: str, plural: str, *contents: Mapping[str, Any]) -> None:
        """Add objects; with none, only make the kind known."""
        self._held[api_version, plural] += contents

    def add_routes(self, app: web.Application) -> None:
        """Answer lists, of the whole cluster and of one namespace."""
        app.router.add_get(_KIND, self._list)
        app.router.add_get(_IN_NAMESPACE, self._list)

    async def _list(self, request: web.Request) -> web.Response:
        self.requests.append(request.path_qs)
        match = request.match_info
        held = self._held.get((f"{match['group']}/{match['version']}", match["plural"]))
        if match["plural"] in self.forbidden or held is None:
            return web.json_response({"kind": "Status"}, status=404 if held is None else 403)
        namespace = match.get("namespace")
        found = [it for it in held if namespace in {None, it["metadata"]["namespace"]}]
        start = int(request.query.get("continue", "0"))
        end = start + int(request.query.get("limit", len(found)))
        metadata = {"resourceVersion": "1"} | ({"continue": str(end)} if end < len(found) else {})
        return web.json_response({"metadata": metadata, "items": found[start:end]})

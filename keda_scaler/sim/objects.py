"""Objects of any kind on the simulated API server: listed in pages, as KEDA's own are."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from aiohttp import web

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_EVENTS = "/api/v1/namespaces/{namespace}/events"
_KIND = "/apis/{group}/{version}/{plural}"
_IN_NAMESPACE = "/apis/{group}/{version}/namespaces/{namespace}/{plural}"


class SimulatedObjects:
    """What the API server holds beside EndpointSlices. Kinds that it was never given are unknown.

    Usage:
        cluster.objects.put("keda.sh/v1alpha1", "scaledobjects", scaled_object)
    """

    def __init__(self) -> None:
        self.forbidden: set[str] = set()
        """Plurals that may not be read, as reviews of access say too."""

        self.requests: list[str] = []
        """The path and query of each request."""

        self._held: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)

    def put(self, api_version: str, plural: str, *contents: Mapping[str, Any]) -> None:
        """Add objects; with none, only make the kind known."""
        self._held[api_version, plural] += contents

    def add_routes(self, app: web.Application) -> None:
        """Answer lists, of the whole cluster and of one namespace; single objects; reviews."""
        app.router.add_post(_REVIEWS, self._review)
        app.router.add_get(_KIND, self._list)
        app.router.add_get(_IN_NAMESPACE, self._list)
        app.router.add_get(f"{_IN_NAMESPACE}/{{name}}", self._get)
        app.router.add_get(_EVENTS, self._events)

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

    async def _get(self, request: web.Request) -> web.Response:
        self.requests.append(request.path_qs)
        match = request.match_info
        if match["plural"] in self.forbidden:
            return web.json_response({"kind": "Status"}, status=403)
        for it in self._held.get((f"{match['group']}/{match['version']}", match["plural"]), ()):
            if (it["metadata"]["namespace"], it["metadata"]["name"]) == (
                match["namespace"],
                match["name"],
            ):
                return web.json_response(it)
        return web.json_response({"kind": "Status"}, status=404)

    async def _events(self, request: web.Request) -> web.Response:
        """List events; the field selector names what they are about."""
        self.requests.append(request.path_qs)
        if "events" in self.forbidden:
            return web.json_response({"kind": "Status"}, status=403)
        given = request.query.get("fieldSelector", "").split(",")
        wanted = dict(each.split("=") for each in given if each)
        found = [
            it
            for it in self._held["v1", "events"]
            if it["metadata"]["namespace"] == request.match_info["namespace"]
            and all(
                it["involvedObject"][key.removeprefix("involvedObject.")] == value
                for key, value in wanted.items()
            )
        ]
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": found})

    async def _review(self, request: web.Request) -> web.Response:
        """Say whether something may be done: all that is not forbidden."""
        self.requests.append(request.path_qs)
        review = await request.json()
        asked = review["spec"]["resourceAttributes"]["resource"]
        allowed = asked not in self.forbidden
        return web.json_response({**review, "status": {"allowed": allowed}}, status=201)

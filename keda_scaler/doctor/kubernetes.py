"""Single objects of the Kubernetes API server, read within bounds; nothing is written.

A review of access is a POST that stores nothing: it asks what whoever runs this may do.
"""

import asyncio
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from keda_scaler.errors import SourceError
from keda_scaler.sources.apiserver import Configure, kubeconfig
from keda_scaler.sources.bodies import read_at_most

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient

ANSWER_SECONDS = 5.0
"""One answer of the API server, configuration included."""

_MAX_BYTES = 8 * 2**20
_MAX_EVENTS = 100


class NoClusterError(SourceError):
    """There is no configuration of a cluster, which is no fault."""


class NotThereError(SourceError):
    """The API server does not know the object."""


class ForbiddenError(SourceError):
    """Whoever runs this may not read it."""


def require_configuration(configure: Configure | None) -> None:
    """Find out whether there is a cluster at all. Looks at files: call it in a thread.

    Raises:
        NoClusterError: when nothing says where one is.

    """
    paths = kubeconfig()
    if configure is not None or paths is None:
        return
    if not any(Path(path).expanduser().is_file() for path in paths.split(":") if path):
        raise NoClusterError(f"no cluster reachable (kubeconfig {paths}: there is none)")


class Cluster:
    """An API server that answers."""

    def __init__(self, configure: Configure) -> None:
        self._configure = configure
        self._client: ApiClient | None = None

    async def scaled_object(self, namespace: str, name: str) -> Any:
        """Read a ScaledObject.

        Raises:
            SourceError: when it cannot be read; see the classes above.

        """
        return await self._object("keda.sh", "v1alpha1", namespace, "scaledobjects", name)

    async def hpa(self, namespace: str, name: str) -> Any:
        """Read an HPA; likewise."""
        plural = "horizontalpodautoscalers"
        return await self._object("autoscaling", "v2", namespace, plural, name)

    async def events_of_hpa(self, namespace: str, name: str) -> list[Any]:
        """Read the events about an HPA; likewise."""
        about = f"involvedObject.kind=HorizontalPodAutoscaler,involvedObject.name={name}"
        answer = await self._ask(
            "CoreV1Api", "list_namespaced_event", namespace, field_selector=about, limit=_MAX_EVENTS
        )
        items = answer.get("items") if isinstance(answer, dict) else None
        return [it for it in items if isinstance(it, dict)] if isinstance(items, list) else []

    async def may(self, verb: str, group: str, resource: str, namespace: str) -> bool:
        """Ask whether something may be done in a namespace, or (empty) in all; likewise."""
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        answer = await self._ask(
            "CustomObjectsApi",
            "create_cluster_custom_object",
            *("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            },
        )
        status = answer.get("status") if isinstance(answer, dict) else None
        return isinstance(status, dict) and status.get("allowed") is True

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    async def _object(
        self, group: str, version: str, namespace: str, plural: str, name: str
    ) -> Any:
        call = "get_namespaced_custom_object"
        return await self._ask("CustomObjectsApi", call, group, version, namespace, plural, name)

    async def _ask(self, api: str, call: str, *arguments: Any, **query: Any) -> Any:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                client = await self._configured()
                module = importlib.import_module("kubernetes_asyncio.client")
                method = getattr(getattr(module, api)(client), call)
                response = await method(*arguments, _preload_content=False, **query)
                try:
                    return json.loads(await _body(response))
                finally:
                    response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = f"cannot reach the Kubernetes API server ({type(error).__name__})"
            raise SourceError(why) from error
        except (ValueError, RecursionError) as error:
            raise SourceError("an answer of the Kubernetes API server is no JSON") from error

    async def _configured(self) -> "ApiClient":
        if self._client is None:
            try:
                self._client = await self._configure()
            except TimeoutError:
                raise
            except Exception as error:  # the client's readers raise whatever goes wrong within
                raise SourceError(
                    f"no usable Kubernetes configuration ({type(error).__name__})"
                ) from error
        return self._client


async def _body(response: aiohttp.ClientResponse) -> bytes:
    match response.status:
        case 200 | 201:
            pass
        case 401 | 403:
            raise ForbiddenError(f"the Kubernetes API server answers {response.status}")
        case 404:
            raise NotThereError("the Kubernetes API server does not know it")
        case status:
            raise SourceError(f"the Kubernetes API server answers {status}")
    body = await read_at_most(response, _MAX_BYTES)
    if body is None:
        raise SourceError("an answer of the Kubernetes API server is too large")
    return body

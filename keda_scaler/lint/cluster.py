"""ScaledObjects and HPAs of a cluster, read once and only read."""

import importlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from keda_scaler.errors import ScaledObjectError
from keda_scaler.lint.documents import Document, text_at, value_at
from keda_scaler.sources.apiserver import Configure
from keda_scaler.sources.bodies import read_at_most

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient

MAX_OBJECTS = 20_000
"""Of one kind: as many targets as one scaler follows."""

_PAGE_OBJECTS = 250
_PAGE_BYTES = 64 * 2**20
_PAGE_SECONDS = 30.0

PLACE = "cluster"


@dataclass(frozen=True, slots=True)
class _Kind:
    group: str
    version: str
    plural: str
    name: str


_SCALED_OBJECTS = _Kind("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject")
_HPAS = _Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")


async def read_cluster(
    configure: Configure, namespace: str | None
) -> tuple[list[Document], list[str]]:
    """List ScaledObjects and HPAs, of one namespace or of all; and say what may not be listed.

    Raises:
        ScaledObjectError: when ScaledObjects cannot be listed.

    """
    try:
        client = await configure()
    except Exception as error:  # the client's readers raise whatever goes wrong within
        raise ScaledObjectError(
            f"{PLACE}: no usable Kubernetes configuration ({type(error).__name__})"
        ) from error
    try:
        found = [it async for it in _objects(client, _SCALED_OBJECTS, namespace)]
        try:
            hpas = _objects(client, _HPAS, namespace)
            return found + [it async for it in hpas], []
        except ScaledObjectError as error:
            return found, [f"{error}: HPAs on the same target are not seen"]
    finally:
        await client.close()


async def _objects(
    client: "ApiClient", kind: _Kind, namespace: str | None
) -> AsyncIterator[Document]:
    count, token = 0, ""
    # Items of a list need not repeat what they are.
    head = {"apiVersion": f"{kind.group}/{kind.version}", "kind": kind.name}
    while True:
        page = await _page(client, kind, namespace, token)
        items = value_at(page, "items")
        for raw in items if isinstance(items, list) else ():
            count += 1
            if count > MAX_OBJECTS:
                raise ScaledObjectError(f"{PLACE}: more than {MAX_OBJECTS} {kind.plural}")
            yield Document(PLACE, raw | head if isinstance(raw, dict) else {})
        token = text_at(page, "metadata", "continue")
        if not token:
            return


async def _page(client: "ApiClient", kind: _Kind, namespace: str | None, token: str) -> Any:
    api = importlib.import_module("kubernetes_asyncio.client").CustomObjectsApi(client)
    query: dict[str, Any] = {
        "limit": _PAGE_OBJECTS,
        "_preload_content": False,
        "_request_timeout": aiohttp.ClientTimeout(total=_PAGE_SECONDS),
        **({"_continue": token} if token else {}),
    }
    group, version, plural = kind.group, kind.version, kind.plural
    try:
        if namespace is None:
            response = await api.list_cluster_custom_object(group, version, plural, **query)
        else:
            response = await api.list_namespaced_custom_object(
                group, version, namespace, plural, **query
            )
        return json.loads(await _body(response, plural, namespace))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = f"cannot reach the Kubernetes API server ({type(error).__name__})"
        raise ScaledObjectError(f"{PLACE}: {why}") from error
    except (ValueError, RecursionError) as error:
        raise ScaledObjectError(f"{PLACE}: the list of {plural} is no JSON") from error


async def _body(response: aiohttp.ClientResponse, plural: str, namespace: str | None) -> bytes:
    try:
        if response.status in {401, 403}:
            where = "the cluster" if namespace is None else f"namespace {namespace}"
            hint = "; try --namespace" if namespace is None else ""
            raise ScaledObjectError(f"{PLACE}: not allowed to list {plural} in {where}{hint}")
        if response.status == 404:
            raise ScaledObjectError(f"{PLACE}: it does not know {plural}; is KEDA installed?")
        if response.status != 200:
            raise ScaledObjectError(f"{PLACE}: {response.status} to a list of {plural}")
        body = await read_at_most(response, _PAGE_BYTES)
        if body is None:
            raise ScaledObjectError(f"{PLACE}: the list of {plural} is too large")
        return body
    finally:
        response.close()

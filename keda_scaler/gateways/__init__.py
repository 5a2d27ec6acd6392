"""Gateways: what stands in front of engines to the requests of one target, pure.

One file per gateway, and the table below.
"""

from collections.abc import Mapping

from keda_scaler.gateways.envoy import ENVOY
from keda_scaler.gateways.epp import EPP
from keda_scaler.gateways.gateway import Gateway
from keda_scaler.gateways.http_add_on import HTTP_ADD_ON
from keda_scaler.gateways.istio import ISTIO
from keda_scaler.gateways.litellm import LITELLM
from keda_scaler.gateways.nginx import NGINX
from keda_scaler.gateways.vllm_router import VLLM_ROUTER

GATEWAYS: Mapping[str, Gateway] = {
    gateway.name: gateway
    for gateway in (ENVOY, EPP, ISTIO, HTTP_ADD_ON, LITELLM, NGINX, VLLM_ROUTER)
}
"""Every gateway we know, sorted by name. `keda_scaler.core.names.GATEWAYS` has the same keys."""

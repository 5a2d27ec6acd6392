"""How long everything takes, and the ScaledObject that KEDA's side follows."""

from dataclasses import dataclass, field

from keda_scaler.sim.load import Sizes
from keda_scaler.sim.model import EngineModel

NAMESPACE = "demo"
SERVICE = "llama"
"""Of the replicas; the Deployment and the ScaledObject have the same name."""

GATEWAY = "llama-epp"
"""The Service of the gateway in front of them."""


@dataclass(frozen=True, slots=True)
class StackPlan:
    """Durations, in seconds, and sizes, of replicas, gateway, KEDA and HPA."""

    model: EngineModel = field(default_factory=EngineModel)
    places: int = 12
    """Requests that the gateway gives a replica at most, at a time: twice its batch."""

    load_seconds: float = 6.0
    """What a pod needs until it is ready. Real ones need minutes."""

    stop_seconds: float = 1.5
    """What a pod needs at least to end."""

    grace_seconds: float = 30.0
    """What a pod that ends gets at most for the requests that it has."""

    max_replicas: int = 4
    target_queue_depth: int = 3
    polling_interval: int = 2
    cooldown_period: int = 15
    sync_seconds: float = 3.0
    """Between two syncs of the HPA; 15 in a cluster."""

    idle_seconds: int = 4
    cold_start_seconds: int = 20
    """Longer than a pod needs until it is ready."""

    up_period: int = 5
    """Seconds in which the HPA may add two pods."""

    down_stabilization: int = 8
    down_period: int = 3
    """Seconds in which the HPA may remove one pod."""

    limit_seconds: float = 90.0
    """When everything, and every request, is given up."""


@dataclass(frozen=True, slots=True)
class Plan(StackPlan):
    """How a demo goes. The defaults take about a minute."""

    quiet_seconds: float = 5.0
    """Before the first request may come."""

    burst_seconds: float = 15.0
    requests_per_second: float = 6.0
    """On average, during the burst; a replica of the model above can do two."""

    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 3
    """Of the arrivals: the same come every time."""

    least_peak: int = 2
    """Replicas that must have been ready at once for the verdict to be good."""


def manifest(plan: StackPlan, scaler: str) -> str:
    """Write the ScaledObject for a scaler at HOST:PORT."""
    return f"""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {SERVICE}
  namespace: {NAMESPACE}
spec:
  scaleTargetRef:
    name: {SERVICE}
  minReplicaCount: 0
  maxReplicaCount: {plan.max_replicas}
  pollingInterval: {plan.polling_interval}
  cooldownPeriod: {plan.cooldown_period}  # in earnest: minutes, as a model takes long to load
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          stabilizationWindowSeconds: 0
          policies:
            - {{type: Pods, value: 2, periodSeconds: {plan.up_period}}}
        scaleDown:
          stabilizationWindowSeconds: {plan.down_stabilization}
          policies:
            - {{type: Pods, value: 1, periodSeconds: {plan.down_period}}}
  triggers:
    - type: external-push
      metadata:
        scalerAddress: {scaler}
        service: {SERVICE}
        targetQueueDepth: "{plan.target_queue_depth}"
        targetGpuMemoryPressure: "0.85"
        pollSeconds: "1"
        idleSeconds: "{plan.idle_seconds}"
        wakeFrom: epp  # knows of requests while there is no replica
        wakeService: {GATEWAY}
        coldStartSeconds: "{plan.cold_start_seconds}"
"""

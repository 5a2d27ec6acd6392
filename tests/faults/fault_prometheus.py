"""What a Prometheus makes of the world of a scene: its series, and how long it has scraped."""

from fault_scene import Hits, Scene
from fault_world import World
from keda_scaler.core.readings import Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Space
from keda_scaler.sources.promapi import SETTLED_SECONDS, Pin
from keda_scaler.sources.promrounds import Target

NAMESPACE = "default"
_OTHER = {"pod": "exporter-0", "instance": "exporter-0", "job": "nodes"}
_LOOKBACK = 300
"""For so many seconds `up` stands after the last scrape, unless Prometheus ends it."""


def tell(target: Target, world: World, second: int, now: float) -> None:
    """Be one round of the target's source."""
    space = Space(NAMESPACE, [target.trigger.engine])
    if not target.is_right:
        target.wrong = "no series of vllm within a week"
    for sample in _samples(world, second, now):
        space.add_scrape(sample) if sample.name == "up" else space.add(sample)
    target.take(space, {}, _pin(world.scene, second, now), now)


def _pin(scene: Scene, second: int, now: float) -> Pin:
    lost = any(
        fault.hits is Hits.DISK and fault.since <= second < fault.until + SETTLED_SECONDS
        for fault in scene.faults
    )
    before = None if lost else now - SETTLED_SECONDS
    return Pin(unix=now, at=now, newest=now, skew=0.0, before=before)


def _samples(world: World, second: int, now: float) -> list[Sample]:
    scene = world.scene
    found = [Sample("up", _OTHER, 1.0, now)]
    if scene.fault(Hits.DISK, second):
        return found
    unscraped = scene.fault(Hits.SCRAPES, second)
    if unscraped is not None and second >= unscraped.since + _LOOKBACK:
        return found
    down = scene.fault(Hits.PAGES, second)
    renamed = scene.fault(Hits.FAMILIES, second)
    for name, (readings, _) in world.pages(second, now).items():
        labels = {"namespace": NAMESPACE, "pod": name, "instance": name, "job": "vllm"}
        work, queue = readings[Signal.CONCURRENCY], readings[Signal.QUEUE_DEPTH]
        answers = isinstance(work, Value) and isinstance(queue, Value) and down is None
        found.append(Sample("up", labels, float(answers), now))
        if answers and unscraped is None and renamed is None:
            own = labels | {"model_name": "llama", "engine": "0"}
            assert isinstance(work, Value)
            assert isinstance(queue, Value)
            running = work.number - queue.number
            found += [
                Sample("vllm:num_requests_waiting", own, queue.number, now),
                Sample("vllm:num_requests_running", own, running, now),
            ]
    return found

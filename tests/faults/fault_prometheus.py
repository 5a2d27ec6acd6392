"""What a Prometheus makes of the world of a scene: its series, and how long it has scraped."""

from fault_scene import Hits, Scene
from fault_world import World
from keda_scaler.core.readings import Value
from keda_scaler.core.signals import Signal
from keda_scaler.engines.samples import Sample
from keda_scaler.engines.spaces import Space
from keda_scaler.sources.promapi import SETTLED_SECONDS, Pin
from keda_scaler.sources.promrounds import Target
from prometheus_samples import LOOKBACK_SECONDS, NAMESPACE, series, up, up_elsewhere


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
    found = [up_elsewhere(now)]
    if scene.fault(Hits.DISK, second):
        return found
    unscraped = scene.fault(Hits.SCRAPES, second)
    if unscraped is not None and second >= unscraped.since + LOOKBACK_SECONDS:
        return found
    down = scene.fault(Hits.PAGES, second)
    renamed = scene.fault(Hits.FAMILIES, second)
    for name, (readings, _) in world.pages(second, now).items():
        work, queue = readings[Signal.CONCURRENCY], readings[Signal.QUEUE_DEPTH]
        answers = isinstance(work, Value) and isinstance(queue, Value) and down is None
        found.append(up(name, now, succeeded=answers))
        if answers and unscraped is None and renamed is None:
            assert isinstance(work, Value)
            assert isinstance(queue, Value)
            running = work.number - queue.number
            found += [
                series(name, "vllm:num_requests_waiting", queue.number, now),
                series(name, "vllm:num_requests_running", running, now),
            ]
    return found

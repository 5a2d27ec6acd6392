"""Draws plans at random, each from a whole number: the same one always gives the same plan."""

import random
from collections.abc import Iterator, Sequence

from adversary_plan import LAG_SECONDS, LIST_HITS, MOMENTS, PROMETHEUS_HITS, Event, Hit, Plan, Work
from adversary_pods import Fate, Pace

METRICS: tuple[dict[str, str], ...] = (
    {},
    {"targetQueueDepth": "5"},
    {"targetConcurrency": "8"},
    {"targetQueueDepth": "5", "targetConcurrency": "12"},
)

_SCRAPES = (5.0, 10.0, 15.0, 30.0)

QUIET_SECONDS = 60.0
"""Nothing goes wrong before."""


def draw(seed: int) -> Plan:
    """Draw a plan: in one of two work stays the same, and one of two is read by a Prometheus."""
    rng = random.Random(seed)
    steady, scraped = rng.random() < 0.5, rng.random() < 0.5
    seconds = rng.choice([3600.0, 7200.0, 10800.0])
    gateway = rng.choice([None, None, "held", "in-flight"])
    replicas = rng.choice([1, 1, 2, 3, 4, 6])
    if gateway and not steady and rng.random() < 0.3:
        replicas = 0
    kind = rng.choice(["Deployment", "Deployment", "StatefulSet", "LeaderWorkerSet"])
    hits = set(Hit) - (LIST_HITS if scraped else PROMETHEUS_HITS)
    hits -= set() if gateway else {Hit.GATEWAY}
    drawn = [hit for hit in Hit if hit in hits]
    drawn += 2 * [hit for hit in drawn if hit in PROMETHEUS_HITS]
    events = sorted(_events(rng, seconds, drawn), key=_since)
    poll_seconds = rng.choice([5, 10, 15, 15, 30])
    return Plan(
        seconds=seconds,
        replicas=replicas,
        phases=tuple(_phases(rng, seconds, replicas, steady=steady)),
        events=tuple(events),
        keys={
            **rng.choice(METRICS),
            "pollSeconds": str(poll_seconds),
            "idleSeconds": rng.choice(["30", "60"]),
            "holdSeconds": rng.choice(["300", "900"]),
            "coldStartSeconds": rng.choice(["120", "300"]),
        },
        kind=kind,  # type: ignore[arg-type]  # one of its words
        pace=Pace(
            schedule=rng.choice([1.0, 5.0, 30.0]),
            load=rng.choice([20.0, 60.0, 150.0, 400.0]),
            linger=rng.choice([2.0, 10.0, 45.0]),
        ),
        surge=rng.choice([0, 1, 1, 2, 4]),
        unavailable=rng.choice([0, 0, 1]),
        routing=rng.choice(["even", "even", "first", "uneven"]),
        gateway=gateway,  # type: ignore[arg-type]  # likewise
        drains=rng.random() < 0.7,
        apart=rng.random() < 0.3,
        race=rng.random() < 0.7,
        minimum=rng.choice([0, 0, 0, 1]),
        maximum=12,
        cooldown=rng.choice([60, 300]),
        at_once=rng.random() < 0.5,
        scraped_every=rng.choice([s for s in _SCRAPES if s <= poll_seconds]) if scraped else None,
    )


def _since(event: Event) -> float:
    return event.since


def _phases(
    rng: random.Random, seconds: float, replicas: int, *, steady: bool
) -> Iterator[tuple[float, Work]]:
    at = 0.0
    while at < seconds:
        busy = rng.choice([0, 0, 1, max(1, replicas), max(1, replicas), rng.randint(1, 10)])
        share = rng.uniform(0.1, 1.0)
        yield (
            round(at, 1),
            Work(round(busy * 5 * share), round(busy * 8 * share), round(busy * 0.85 * share, 2)),
        )
        if steady:
            return
        at += rng.choice([60, 200, 500, 1500]) * rng.uniform(0.8, 1.2)


def _events(rng: random.Random, seconds: float, hits: Sequence[Hit]) -> Iterator[Event]:
    for _ in range(rng.choice([1, 2, 4, 8])):
        since = round(rng.uniform(QUIET_SECONDS, seconds), 1)
        hit = rng.choice(hits) if rng.random() < 0.6 else Hit.ROLLOUT
        which = rng.choice([None, 0, 1, 2])
        if hit in MOMENTS:
            fate = rng.choice([Fate.GOOD, Fate.GOOD, *Fate]) if hit is Hit.ROLLOUT else Fate.GOOD
            yield Event(hit, since, which=which, fate=fate)
        else:
            lasts = rng.choice([20, 60, 200, 400, 700, 1500]) * rng.uniform(0.8, 1.2)
            lasts = max(lasts, 2 * LAG_SECONDS) if hit is Hit.LAG else lasts
            yield Event(hit, since, round(since + lasts, 1), which=which)

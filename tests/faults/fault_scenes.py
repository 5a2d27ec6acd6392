"""The fault table: what goes wrong, when, and what the reader should know about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fault_scene import THROUGH_PROMETHEUS, Fault, Hits, Load, Scene
from keda_scaler.sources.pages import PAGE_SECONDS

REASONS: Mapping[str, str] = {
    "refuses": "cannot connect",
    "hangs": f"no answer within {PAGE_SECONDS:g} s",
    "answers-500": "the page answers HTTP 500",
    "no-metrics": (
        "the page has a line that is not an exposition: "
        "'vllm:num_requests_waiting{engine=\"0\" is not a sample'"
    ),
    "half-a-page": "cannot read the page: ClientPayloadError",
    "wrong-engine": "no series of vllm",
    "dns-empty": "llama.invalid cannot be resolved",
    "kubernetes-away": "the Kubernetes API server answers 500 to list EndpointSlices",
    "service-gone": "no EndpointSlice of Service llama: does it exist?",
    "prometheus-frozen": (
        "the newest sample of Prometheus is older than staleSeconds (15); "
        "staleSeconds must exceed its scrape interval"
    ),
    "prometheus-clock": (
        "the clocks of Prometheus and of this server differ by more than staleSeconds (15)"
    ),
    "redis-away": "Redis cannot be reached",
    "gateway-away": "cannot connect",
    "cached": "older than staleSeconds (15) when it came: a cache, or old timestamps",
    "cached-silently": "the page is a cache's, which does not say how old it is",
    "cut-off": "no series of vllm:num_requests_waiting",
    "gzip-cut-off": "the page was cut off: its gzip stream does not end",
    "rank-lost": "1 of 2 series that it had are gone",
    "vllm-families-lost": "1 of 2 series that it had are gone",
    "prefixed": (
        "no series of a known engine; the page has kserve_vllm:num_requests_running, with a prefix"
    ),
    "port-refuses": "port 8001: cannot connect",
}
"""What a source says of a fault, or how that begins. `test_faults_outcomes.py` gets the same from
real pages and real servers."""

START = 60
"""When faults begin."""

_ALWAYS = 1_000_000
_BUSY = (Load(0, _ALWAYS, 12),)
_EPP = {"wakeFrom": "epp", "wakeService": "epp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table."""

    name: str
    what: str
    """What happens, for people."""

    scene: Scene
    zero: int = START
    """From which second of the scene times are counted."""

    by_choice: bool = False
    """Whether the trigger says to put replicas to sleep without proof of idleness."""

    remedy: str = ""
    """Only where the guarantee ends: what to do about it."""

    mended: Mapping[str, str] = field(default_factory=dict)
    """The trigger keys of the remedy; empty: it is no trigger key."""

    @property
    def says(self) -> str:
        """What the source says of the fault; empty: nothing."""
        return next((fault.reason for fault in self.scene.faults if fault.reason), "")


def _busy(name: str, what: str, hits: Hits, minutes: int, **keys: str) -> Row:
    """Play a fault under load: twelve requests wait for three replicas, all the time."""
    seconds = 60 * minutes
    usual = REASONS["refuses"] if hits in {Hits.PAGES, Hits.PAGE} else ""
    fault = Fault(hits, START, START + seconds, REASONS.get(name, usual))
    return Row(
        name=name,
        what=what,
        scene=Scene(
            seconds=START + seconds + 60, replicas=3, load=_BUSY, faults=(fault,), keys=keys
        ),
    )


def _ending(name: str, what: str, *faults: Fault, after: int = 0, minutes: int = 17) -> Row:
    """Play faults around the end of all work, so many seconds after `START`."""
    load = (Load(0, START + after, 10),)
    scene = Scene(seconds=START + 60 * minutes, replicas=2, load=load, faults=faults)
    return Row(name=name, what=what, scene=scene)


def _waking(name: str, what: str, scene: Scene) -> Row:
    return Row(name=name, what=what, scene=replace(scene, keys={**_EPP, **scene.keys}))


def _refusing(since: int, until: int, hits: Hits = Hits.PAGES) -> Fault:
    return Fault(hits, START + since, START + until, REASONS["refuses"])


_COUNTED = Scene(seconds=START + 480, replicas=0, arrivals=(START,))
"""One request is counted, and does not wait."""


def _waiting(seconds: int, **more: object) -> Scene:
    """Let one request come at zero, and wait or be worked on for so long."""
    load = (Load(START, START + seconds, 1),)
    scene = Scene(seconds=START + seconds + 420, replicas=0, load=load)
    return replace(scene, **more)  # type: ignore[arg-type]  # fields of it


SOURCES = (
    _busy("refuses", "Every page refuses, for 10 minutes.", Hits.PAGES, 10),
    _busy("hangs", "Every page hangs, for 10 minutes.", Hits.PAGES, 10),
    _busy("answers-500", "Every page answers 500, for 10 minutes.", Hits.PAGES, 10),
    _busy("half-a-page", "Every page breaks off in the middle, for 10 minutes.", Hits.PAGES, 10),
    _busy("no-metrics", "Every page answers 200 and no metrics, for 10 minutes.", Hits.PAGES, 10),
    _busy("wrong-engine", "Every page is of another engine, for 10 minutes.", Hits.PAGES, 10),
    _busy("dns-empty", "DNS has no address for `endpoints`, for 10 minutes.", Hits.SOURCE, 10),
    _busy("twenty-minutes", "Every page refuses, for 20 minutes.", Hits.PAGES, 20),
    _busy(
        *("half-an-hour-held", "Every page refuses, for half an hour, `holdSeconds: 3600`."),
        *(Hits.PAGES, 30),
        holdSeconds="3600",
    ),
    _busy(
        *("one-replica-gone", "One of three busy replicas does not answer, for 10 minutes."),
        *(Hits.PAGE, 10),
    ),
    _busy(
        *("kubernetes-away", "The Kubernetes API is away, for 10 minutes; pages are read on."),
        *(Hits.LIST, 10),
    ),
    _busy(
        *("service-gone", "The Service is deleted, and is back after 10 minutes."),
        *(Hits.SOURCE, 10),
    ),
    _busy(
        *("prometheus-frozen", "Prometheus answers with old samples, for 10 minutes."),
        *(Hits.SOURCE, 10),
    ),
    _busy(
        "prometheus-clock",
        "The clock of Prometheus jumps by an hour, or ours does; after 10 minutes it is right.",
        *(Hits.SOURCE, 10),
    ),
    _busy(
        *("redis-away", "Redis is away, for 10 minutes (`engine: reports`)."),
        *(Hits.PAGES, 10),
        engine="reports",
    ),
    _ending(
        "one-replica-silent",
        "All work that can be seen ends, and one of two replicas does not answer for 10 minutes.",
        _refusing(0, 600, Hits.PAGE),
    ),
    _ending(
        "work-ends-unseen",
        "Pages refuse, for 10 minutes; all work ends a minute after they began to.",
        _refusing(0, 600),
        after=60,
    ),
    _ending(
        "every-second-poll",
        "All work ends, and every second poll fails, for 40 seconds.",
        *(_refusing(second, second + 5) for second in range(0, 40, 10)),
        minutes=7,
    ),
    _ending(
        "gap-while-cooling",
        "All work ends; pages refuse for a minute in the middle of KEDA's cooldown.",
        _refusing(240, 300),
        minutes=12,
    ),
)
"""Faults of what is read."""

MISLEADING = (
    _busy(
        *(
            "cached",
            "A cache answers for every page, with what it was ten minutes ago (`Age: 600`).",
        ),
        *(Hits.OLD, 10),
    ),
    _busy(
        "cached-silently",
        "A cache answers for every page and does not say how old that is (`X-Cache: HIT`).",
        *(Hits.PAGES, 10),
    ),
    _busy(
        *("cut-off", "Every page ends early, at the end of a line, for 10 minutes."),
        *(Hits.PAGES, 10),
    ),
    _busy("gzip-cut-off", "Every gzip stream of a page ends early.", Hits.PAGES, 10),
    _busy(
        "rank-lost",
        "Every page loses the series of one of its two data-parallel engines, which has the work.",
        *(Hits.SERIES, 10),
    ),
    _busy(
        "vllm-families-lost",
        "Triton with its vLLM backend prints its own families on, and those of vLLM no more.",
        *(Hits.SERIES, 10),
    ),
    replace(
        _busy(
            *("prefixed", "The ScaledObject is new, and every family has a prefix."),
            *(Hits.PAGES, 10),
        ),
        scene=Scene(
            seconds=START + 600,
            replicas=3,
            load=_BUSY,
            faults=(Fault(Hits.PAGES, 0, _ALWAYS, REASONS["prefixed"]),),
        ),
        zero=0,
    ),
    _busy(
        "port-refuses",
        "Of the eight ports of every replica (`port: 8000-8007`) one refuses, for 10 minutes.",
        *(Hits.PAGES, 10),
        port="8000-8007",
    ),
    _busy(
        "address-refuses",
        "One of the three addresses of a name in `endpoints` refuses, for 10 minutes.",
        *(Hits.PAGE, 10),
        endpoints="http://llama:8000/metrics",
    ),
    _busy(
        *("both-families", "Slices of IPv6 list every pod once more, without its name."),
        *(Hits.TWICE, 10),
    ),
    _busy(
        *("half-open-watch", "The watch of EndpointSlices is half-open, for 10 minutes."),
        *(Hits.WATCH, 10),
    ),
    _ending(
        "half-open-watch-ending",
        "The same, and all work ends as it begins: a pod that has come since is not known.",
        Fault(Hits.WATCH, START, START + 600),
    ),
)
"""Pages and lists that are there, and do not say what is."""

SCALER = (
    _busy(
        "wall-clock",
        "Our clock on the wall jumps by a day, for 10 minutes (`service`, `endpoints`).",
        *(Hits.WALL, 10),
    ),
    _busy("scaler-killed", "The scaler is killed, and is back after a minute.", Hits.SCALER, 1),
    Row(
        name="scaler-killed-reports",
        what="A batch states its requests every 30 s, beside a gateway that reports zero "
        "(`engine: reports`); the scaler that keeps reports itself is killed, and is back after "
        "5 seconds.",
        scene=Scene(
            seconds=START + 180,
            replicas=3,
            load=_BUSY,
            faults=(Fault(Hits.SCALER, START, START + 5),),
            keys={"engine": "reports"},
            stated_at=tuple(range(-5, 300, 30)),
        ),
    ),
    _ending(
        "scaler-killed-idle",
        "All work ends; the scaler is killed in the middle of KEDA's cooldown, and is back after "
        "5 seconds.",
        Fault(Hits.SCALER, START + 240, START + 245),
        minutes=11,
    ),
    _waking(
        "scaler-killed-waking",
        "At zero, a request is counted and refused; 2 minutes later, while the replica loads, the "
        "scaler is killed, and is back after 10 seconds.",
        replace(
            _COUNTED,
            load_seconds=240,
            seconds=START + 660,
            faults=(Fault(Hits.SCALER, START + 120, START + 130),),
        ),
    ),
    _busy(
        "keda-reconnects",
        "KEDA's stream breaks, and is opened again a minute later.",
        *(Hits.STREAM, 1),
    ),
    _waking(
        "keda-reconnects-waking",
        "At zero, a request comes and waits while the stream is broken, for a minute.",
        _waiting(300, faults=(Fault(Hits.STREAM, START - 10, START + 60),)),
    ),
    Row(
        name="killed-in-an-outage",
        what="Every page refuses, for 10 minutes; after the first the scaler is killed, and is "
        "back after 5 seconds.",
        scene=Scene(
            seconds=START + 660,
            replicas=3,
            load=_BUSY,
            faults=(_refusing(0, 600), Fault(Hits.SCALER, START + 60, START + 65)),
        ),
    ),
    Row(
        name="new-in-an-outage",
        what="The ScaledObject is new, and every page refuses, for 2 minutes.",
        scene=Scene(
            seconds=START + 120, replicas=3, load=_BUSY, faults=(_refusing(-START, START),)
        ),
        zero=0,
    ),
)
"""Faults of the scaler, and between KEDA and it."""

WAKING = (
    _waking(
        "impatient-request",
        "At zero, a request is counted and refused; no other follows.",
        _COUNTED,
    ),
    _waking(
        "slow-start",
        "The same, and the replica takes 8 minutes to load, longer than `coldStartSeconds`.",
        replace(_COUNTED, load_seconds=480, seconds=START + 900),
    ),
    _waking(
        "slow-start-waited-for",
        "At zero, a request comes and waits; the replica takes 20 minutes to load.",
        _waiting(1300, load_seconds=1200),
    ),
    _waking(
        "no-node",
        "At zero, a request comes and waits; for 15 minutes there is no node for the pod.",
        _waiting(1000, schedule_seconds=900),
    ),
    _waking(
        "kubernetes-away-waking",
        "At zero, a request comes and is worked on; the Kubernetes API is away, for 15 minutes.",
        _waiting(1000, faults=(Fault(Hits.LIST, START, START + 900, REASONS["kubernetes-away"]),)),
    ),
    _waking(
        "ready-and-500",
        "At zero, a request comes and waits; the page of its replica answers 500 for the first "
        "half minute that it is ready.",
        _waiting(
            300,
            faults=(Fault(Hits.PAGES, START + 65, START + 95, REASONS["answers-500"]),),
        ),
    ),
    _waking(
        "counter-reset",
        "At zero, the gateway restarts and counts anew; 2 minutes later a request is counted.",
        replace(_COUNTED, arrivals=(START + 120,), counter_reset=START, seconds=START + 600),
    ),
    _waking(
        "gateway-away-at-zero",
        "At zero, the gateway is away, for 10 minutes; a request waits from the third on.",
        _waiting(
            1000,
            load=(Load(START + 180, START + 900, 1),),
            faults=(Fault(Hits.GATEWAY, START, START + 600, REASONS["gateway-away"]),),
        ),
    ),
    _waking(
        "gateway-away",
        "All work ends, and the gateway is away, for 10 minutes.",
        Scene(
            seconds=START + 1020,
            replicas=2,
            load=(Load(0, START, 10),),
            faults=(Fault(Hits.GATEWAY, START, START + 600, REASONS["gateway-away"]),),
        ),
    ),
)
"""Faults of the wake source, and of cold starts."""

_FROZEN = Scene(
    seconds=START + 1200,
    replicas=3,
    load=(Load(0, START + 120, 12),),
    faults=(Fault(Hits.GAUGES, START, _ALWAYS),),
)

REPLICAS = (
    Row(
        name="gauges-frozen-hold",
        what="Gauges and counters of every engine freeze while requests wait (`onStuck: hold`).",
        scene=_FROZEN,
    ),
    Row(
        name="gauges-frozen-idle",
        what="The same with `onStuck: idle`.",
        scene=replace(_FROZEN, keys={"onStuck": "idle"}),
        by_choice=True,
    ),
    Row(
        name="terminating",
        what="All work ends but that of a terminating replica, which takes 10 minutes more.",
        scene=Scene(
            seconds=START + 1020,
            replicas=1,
            load=(Load(0, START, 4),),
            leaving=Load(0, START + 600, 1),
        ),
    ),
    Row(
        name="lingering",
        what="All work ends; the replica that is put to sleep closes its page and is gone a minute "
        "later.",
        scene=Scene(seconds=START + 600, replicas=1, load=(Load(0, START, 4),), linger_seconds=60),
    ),
)
"""What replicas themselves do."""


def _prometheus(name: str, what: str, *faults: Fault, minutes: int = 12, **keys: str) -> Row:
    """Play faults under load, through Prometheus."""
    return Row(
        name=name,
        what=what,
        scene=Scene(
            seconds=START + 60 * minutes,
            replicas=3,
            load=_BUSY,
            faults=faults,
            keys={**THROUGH_PROMETHEUS, **keys},
        ),
    )


PROMETHEUS = (
    _prometheus(
        "scrapes-fail",
        "Prometheus cannot scrape any replica (`up` is 0), for 10 minutes.",
        Fault(Hits.PAGES, START, START + 600),
    ),
    _prometheus(
        "scrapes-fail-for-hours",
        "The same for 70 minutes, `holdSeconds: 7200`.",
        Fault(Hits.PAGES, START, START + 4200),
        minutes=72,
        holdSeconds="7200",
    ),
    replace(
        _prometheus(
            "never-scraped",
            "The ScaledObject is new, and every page has answered 401 from the start, for "
            "10 minutes; `selector` selects them.",
            Fault(Hits.PAGES, 0, 660),
            selector='job="vllm"',
        ),
        zero=0,
    ),
    _prometheus(
        "families-renamed",
        "A new version of the engine gives its families other names, for 10 minutes.",
        Fault(Hits.FAMILIES, START, START + 600),
    ),
    _prometheus(
        "agent-dies",
        "Whoever scrapes the replicas dies, for 20 minutes, while other targets are scraped; "
        "`holdSeconds: 3600`.",
        Fault(Hits.SCRAPES, START, START + 1200),
        minutes=22,
        holdSeconds="3600",
    ),
    _prometheus(
        "disk-lost",
        "Prometheus comes back with an empty disk, and begins to scrape the replicas after a "
        "minute.",
        Fault(Hits.DISK, START, START + 60),
    ),
    _prometheus(
        "disk-and-scaler-lost",
        "The same, and the scaler was killed with it.",
        Fault(Hits.DISK, START, START + 20),
        Fault(Hits.SCALER, START, START + 5),
    ),
    replace(
        _prometheus("prometheus-work-ends", "All work ends, and nothing is wrong."),
        scene=Scene(
            seconds=START + 420,
            replicas=3,
            load=(Load(0, START, 12),),
            keys=THROUGH_PROMETHEUS,
        ),
    ),
)
"""What Prometheus has, and what it lacks."""

TABLES: Mapping[str, tuple[Row, ...]] = {
    "sources": SOURCES,
    "misleading": MISLEADING,
    "prometheus": PROMETHEUS,
    "scaler": SCALER,
    "waking": WAKING,
    "replicas": REPLICAS,
}
"""Every row in which no replica with work, or with unknown work, is put to sleep."""

ENDS = (
    replace(
        _busy("half-an-hour", "Every page refuses, for half an hour.", Hits.PAGES, 30),
        remedy="`holdSeconds` as long as the longest outage to survive",
        mended={"holdSeconds": "3600"},
    ),
    replace(
        _busy(
            *("error-instead", "Every page refuses, for 10 minutes, `onUnknown: error`."),
            *(Hits.PAGES, 10),
            onUnknown="error",
        ),
        remedy="`onUnknown: hold`, or KEDA's `fallback`",
        mended={"onUnknown": "hold"},
    ),
    replace(
        _busy("scaler-away", "The scaler is away, for 10 minutes.", Hits.SCALER, 10),
        remedy="two pods of the scaler, on two nodes",
    ),
    replace(
        _prometheus(
            "new-and-misspelt",
            "The ScaledObject is new, and no series has the names that its trigger gives.",
            minutes=2,
            model="lama",
        ),
        zero=0,
        remedy="`initialCooldownPeriod` in the ScaledObject; `keda-scaler doctor` before",
    ),
    replace(
        _waking(
            "kubernetes-away-counters-only",
            "At zero, a request comes through a gateway that only counts, and is worked on; the "
            "Kubernetes API is away, for 15 minutes.",
            _waiting(
                1000,
                arrivals=(START,),
                gauges=False,
                faults=(Fault(Hits.LIST, START, START + 900, REASONS["kubernetes-away"]),),
            ),
        ),
        remedy="`coldStartSeconds` as long as the longest request",
        mended={"coldStartSeconds": "1800"},
    ),
    replace(
        _busy(
            "selects-nothing",
            "The Service selects no pod any more, for 10 minutes, although three work.",
            *(Hits.ENDPOINTS, 10),
        ),
        remedy="`wakeFrom`, with a gateway that tells of requests in flight",
        mended=_EPP,
    ),
    replace(
        _waking(
            "no-node-counters-only",
            "At zero, a request comes and waits at a gateway that only counts; for 15 minutes "
            "there is no node for the pod.",
            _waiting(1000, schedule_seconds=900, arrivals=(START,), gauges=False),
        ),
        remedy="`coldStartSeconds` as long as the longest cold start, nodes included",
        mended={"coldStartSeconds": "1800"},
    ),
    replace(
        _waking(
            "never-scraped-counters-only",
            "At zero, a request comes through a gateway that only counts, and is worked on; "
            "whoever scrapes the replicas (`prometheus`) is dead for 15 minutes, and other targets "
            "are scraped.",
            _waiting(
                1000,
                arrivals=(START,),
                gauges=False,
                faults=(Fault(Hits.SCRAPES, 0, START + 900),),
                keys=THROUGH_PROMETHEUS,
            ),
        ),
        remedy="`wakeFrom`, with a gateway that tells of requests in flight; an alert on targets "
        "of Prometheus that are gone",
    ),
)
"""Where the guarantee ends: KEDA's race turns an error of ours into "inactive", or, in the last
two, nobody can know of the work."""

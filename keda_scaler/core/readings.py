"""Readings: what is known of each replica, and what is not.

Unknown is never a number: a reading is a `Value`, or it is `Missing` and says why.
Times are monotonic seconds of this process, and say when something was *measured*.

These and what is made of them are msgspec's structs: thousands a second come and go, and one costs
a sixth of a dataclass. None can be part of a cycle, so the garbage collector need not look at them.
"""

from collections.abc import Mapping

from msgspec import Struct

from keda_scaler.core.signals import Signal


class Value(Struct, frozen=True, gc=False):
    """One signal of one replica, measured."""

    number: float
    """In the signal's own unit (see `Signal`); finite, at least 0."""

    at: float
    """When it was measured, in monotonic seconds."""

    series: int = 1
    """Of how many series it was made: of fewer than before, some are missing and not 0."""


class Missing(Struct, frozen=True, gc=False):
    """Nothing was measured."""

    reason: str
    """Why not; short, no secret and no time, because it may end up in a Kubernetes Event."""


class Lacking(Struct, frozen=True, gc=False):
    """The engine is known not to expose the signal, so that nothing is missing: it abstains."""

    reason: str


class Flow(Struct, frozen=True, gc=False):
    """Requests of an engine that counts those that wait and those that ever ran, but not those
    that run now. The store makes a `Value` of it: one request more when the counter has moved since
    the poll before, because then at least one ran.
    """

    waiting: float
    ever: float
    at: float

    series: int = 1
    """Of those that wait: see `Value`."""


class Distribution(Struct, frozen=True, gc=False):
    """A histogram, cumulative since the process began."""

    buckets: tuple[tuple[float, float], ...]
    """Upper bounds in seconds, ascending, the last one infinite; and how many were at most that."""

    at: float
    """When it was measured, in monotonic seconds."""

    started: float | None
    """When the process began, in its own Unix seconds; None: not said."""

    series: int = 1
    """Of how many series it was made: see `Value`. Of none where an absent one is empty."""


class Quantiles(Struct, frozen=True, gc=False):
    """A summary: quantiles that the process itself computed, over a window of its own."""

    points: tuple[tuple[float, float], ...]
    """Shares, ascending, and seconds; NaN for those that were not observed."""

    at: float
    """When it was measured, in monotonic seconds."""


Reading = Value | Missing | Lacking | Flow | Distribution | Quantiles
Readings = Mapping[Signal, Reading]


class Engine(Struct, frozen=True, gc=False):
    """What a poll found out about the engine of a replica."""

    key: str
    """As the trigger key `engine` spells it."""

    reserves_memory: bool
    """Whether it takes its GPU memory at start and keeps it, so that device memory in use says
    nothing about load."""

    asleep: bool = False
    """Whether it has put its model out of the GPU's memory and serves nothing until it is woken."""

    served: float | None = None
    """Sum of the counters that rise with every request that is served. None: the engine does not
    count, or the page does not say."""

    progress: float | None = None
    """Sum of the counters that move whenever a request gets on: tokens, requests that ended. None:
    the engine does not count, or the page does not say."""


class Demand(Struct, frozen=True, gc=False):
    """What a wake source says of one target, at one instant."""

    held: float
    """Requests that wait there and that no engine has yet; at least 0."""

    in_flight: float
    """Requests that it has taken and not answered, those that an engine has included; at least
    `held`."""

    arrived: bool
    """Whether a counter of requests has risen since the reading before."""

    at: float
    """When it was measured, in monotonic seconds."""


class Replica(Struct, frozen=True, gc=False):
    """A replica of the model server that a source lists, whether or not it answers."""

    name: str
    """Unique within its target: the pod's name where there is one, else the address."""

    ready: bool = True
    """False while it loads."""

    terminating: bool = False
    """True while it shuts down and still serves the requests that it has."""

"""What a target says of itself, as plain data: the JSON of /targets, the page and `explain`.

Units are in the names; ages and countdowns are in seconds. What is not known is None (null in JSON)
and never 0, and the field beside it with `missing` in its name says why.
"""

from collections.abc import Mapping

from msgspec import Struct


class Signal(Struct, frozen=True, kw_only=True, rename="camel"):
    """One metric: what it says, and what it asks for."""

    signal: str
    unit: str
    """`requests`, `ratio` or `seconds`, of `target`, `perReplica` and `reported`."""

    target: float
    """Per replica, from the trigger."""

    per_replica: float | None
    """What is compared with the target."""

    reported: float | None
    """What the HPA is told: with metricType AverageValue the sum over replicas."""

    asks_for_replicas: float | None
    """Replicas that the HPA makes of it, not rounded yet."""

    decides: bool
    """Whether it asks for the most: the HPA takes the highest."""

    held: bool
    """Whether it is unknown and held: neither a value nor an error."""

    note: str
    """What is noteworthy about the value; empty: nothing."""

    missing: str | None
    """Why there is no value."""


class Bound(Struct, frozen=True, kw_only=True, rename="camel"):
    """One thing that made the answer what it is."""

    what: str
    """One of `Binding`."""

    text: str
    seconds_left: float | None = None
    """Until it ends, when time ends it."""


class Reading(Struct, frozen=True, kw_only=True, rename="camel"):
    """One signal of one replica."""

    signal: str
    value: float | None
    """In the signal's unit. Of a latency the quantile over the window, of this replica alone."""

    age_seconds: float | None
    """Since it was measured."""

    missing: str | None
    """Why there is no value that counts. Beside a value: it is too old, or the last poll failed."""


class Replica(Struct, frozen=True, kw_only=True, rename="camel"):
    """One replica that the source lists."""

    name: str
    engine: str | None
    """None: no page of it told."""

    ready: bool
    terminating: bool
    stuck: bool
    readings: tuple[Reading, ...]


class Demand(Struct, frozen=True, kw_only=True, rename="camel"):
    """What the wake source says."""

    source: str
    """As `wakeFrom`."""

    requests: float | None
    """Requests that it has taken and not answered."""

    held_requests: float | None
    """Those of them that no engine has yet."""

    age_seconds: float | None
    missing: str | None


class Change(Struct, frozen=True, kw_only=True, rename="camel"):
    """A state or a reason that was another before."""

    unix_seconds: float
    seconds_ago: float
    state: str
    reason: str
    text: str
    replicas_wanted: int
    replicas_answering: int


class Sample(Struct, frozen=True, kw_only=True, rename="camel"):
    """What held at one instant of the last hour."""

    unix_seconds: float
    state: str
    reason: str
    replicas_wanted: int
    replicas_answering: int
    demand_requests: float | None
    """None: not known, or the trigger has no wake source."""

    per_replica: Mapping[str, float | None]
    """By signal."""


class Summary(Struct, frozen=True, kw_only=True, rename="camel"):
    """A target in a line."""

    namespace: str
    name: str
    state: str
    reason: str
    text: str
    since_seconds: float | None
    """How long state and reason have been these; None: nothing was read yet."""

    seconds_to_zero: float | None
    """Until the scaler says idle, if nothing comes; KEDA's cooldownPeriod follows. 0: it does."""

    seconds_to_zero_missing: str | None
    replicas_listed: int | None
    replicas_listed_missing: str | None
    """Why the list is not known. Beside a number: why it may be old."""

    replicas_answering: int
    replicas_wanted: int
    asked_age_seconds: float
    """Since KEDA (or whoever asks as KEDA does) asked about it last. A trigger that was changed is
    another target: the one before is not asked about any more, and forgotten in the end."""

    signals: tuple[Signal, ...]


class Explanation(Summary, frozen=True, kw_only=True, rename="camel"):
    """Everything that a target says of itself."""

    to_do: str
    bound_by: tuple[Bound, ...]
    warnings: tuple[str, ...]
    trigger: Mapping[str, str]
    """The keys in effect, defaults included, as a trigger spells them."""

    list_age_seconds: float | None
    """Since the list of replicas was confirmed; None: it never was."""

    demand: Demand | None
    """None: the trigger has no wake source."""

    replicas: tuple[Replica, ...]
    """Those that lack something first."""

    replicas_left_out: int
    changes: tuple[Change, ...]
    """The newest first."""

    samples: tuple[Sample, ...]
    """One a minute, in the order of time; minutes of which nothing is known are left out."""

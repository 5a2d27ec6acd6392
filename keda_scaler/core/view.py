"""Views: a snapshot at one instant, for one trigger, with what every rule asks of it worked out."""

from keda_scaler.core.readings import Value
from keda_scaler.core.signals import Signal
from keda_scaler.core.snapshot import ReplicaReadings, Snapshot
from keda_scaler.core.trigger import Trigger
from keda_scaler.core.windows import Window


class View:
    """What a decision is made from, beside the memory."""

    __slots__ = ("answering", "counted", "demand", "now", "snapshot", "stuck", "trigger")

    def __init__(self, trigger: Trigger, snapshot: Snapshot, now: float) -> None:
        """Look at a snapshot; `now` in monotonic seconds."""
        self.trigger = trigger
        self.snapshot = snapshot
        self.now = now
        demand = snapshot.demand
        self.demand = demand if demand is not None and self.is_fresh(demand.at) else None
        """What the wake source said; None: nothing, or that is too old to believe."""
        self.counted = [each for each in snapshot.replicas if not each.replica.terminating]
        """The replicas that values are about: not those that are leaving, as with the HPA."""
        self.stuck = [each for each in snapshot.replicas if self.is_stuck(each)]
        """The replicas that are stuck."""
        self.answering = self._answering()
        """How many replicas serve: ready, not leaving, not asleep, and known by a fresh reading.

        With reports alone, where replicas are not known: 1 when a request is served, else 0.
        """

    def is_fresh(self, at: float) -> bool:
        """Whether what was measured then, in monotonic seconds, is still to be believed."""
        return self.now < at + self.trigger.stale_after

    def value(self, replica: ReplicaReadings, signal: Signal) -> Value | None:
        """Give a replica's newest value; None: there is none, or it is too old to believe."""
        value = replica.values.get(signal)
        return value if value is not None and self.is_fresh(value.at) else None

    def is_known(self, replica: ReplicaReadings, signal: Signal) -> bool:
        """Whether a replica's latest poll told the signal, and lately enough to be believed.

        What is replayed because the latest poll failed is not known.
        """
        at = replica.measured_at(signal)
        return at is not None and self.is_fresh(at) and signal not in replica.problems

    def is_missing(self, replica: ReplicaReadings, signal: Signal) -> bool:
        """Whether a replica may have a share in a value that nobody knows.

        One that never told it has none while it loads, and once it is ready for `holdSeconds`. One
        that told it before has none once it is neither ready nor heard of for that long.
        """
        if self.is_known(replica, signal):
            return self.is_stuck(replica) and self.trigger.on_stuck == "hold"
        told_at = replica.measured_at(signal)
        if told_at is None:
            return self.is_awaited(replica)
        lapsed_at = told_at + self.trigger.stale_after
        return replica.replica.ready or self.now < lapsed_at + self.trigger.hold_seconds

    def is_awaited(self, replica: ReplicaReadings) -> bool:
        """Whether a replica that never answered is ready, and not for `holdSeconds` yet."""
        if not replica.replica.ready:
            return False
        since = replica.ready_since
        return since is None or self.now < since + self.trigger.hold_seconds

    def window(self, replica: ReplicaReadings, signal: Signal) -> Window | None:
        """Give the looks at a latency; None: there are none, or the newest is too old."""
        window = replica.windows.get(signal)
        return window if window is not None and self.is_fresh(window.at) else None

    def is_stuck(self, replica: ReplicaReadings) -> bool:
        """Whether a replica goes on telling of requests that do not get on."""
        return (
            replica.still_since is not None
            and self.now >= replica.still_since + self.trigger.stuck_seconds
            and self.value(replica, Signal.CONCURRENCY) is not None
        )

    @property
    def mean_of(self) -> int:
        """How many replicas a mean is over: those that the HPA multiplies it with, as far as we
        know; 0: none is ready.
        """
        return sum(
            each.replica.ready and (each.has_answered or self.is_awaited(each))
            for each in self.counted
        )

    def _answering(self) -> int:
        known = [
            replica
            for replica in self.snapshot.replicas
            if replica.is_serving and self.value(replica, Signal.CONCURRENCY) is not None
        ]
        if self.trigger.by_reports:
            return int(any(_serves(replica) for replica in known))
        return len(known)


def _serves(reports: ReplicaReadings) -> bool:
    """Whether reports tell of a request that an engine has."""
    waiting = reports.values.get(Signal.QUEUE_DEPTH)
    return reports.values[Signal.CONCURRENCY].number > (waiting.number if waiting else 0.0)

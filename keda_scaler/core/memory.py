"""Memory: what one snapshot of a target cannot tell, carried from change to change."""

import math
from collections.abc import Mapping

from msgspec import Struct, field

from keda_scaler.core.signals import Signal


class Memory(Struct, frozen=True, gc=False):
    """What one snapshot cannot tell."""

    known_until: float | None = None
    """Until when activity is known, or was: then since when it is not. None: it never was."""

    idle_since: float | None = None
    """Since when proof of idleness has held without a gap; None: it does not hold."""

    listed_since: float | None = None
    """Since when replicas are listed of which nothing was known yet, in monotonic seconds; None:
    there are none, or activity was known since."""

    at_zero: bool = True
    """Whether there was neither a replica nor work, for as long as we know."""

    worked: bool = False
    """Whether there was work since idleness was last proven for `idleSeconds`."""

    rested: bool = False
    """Whether idleness was proven for `idleSeconds`, and there was no work since."""

    lease_until: float | None = None
    """When the lease ends or ended, in monotonic seconds; None: replicas answered since."""

    asked: int = 0
    """Replicas that the metrics asked for; see `keda_scaler.core.waking`."""

    asked_at: float = -math.inf
    """When so many were first asked for, in monotonic seconds."""

    totals: Mapping[Signal, float] = field(default_factory=dict)
    """What each metric reported last, as a sum over replicas: it stays asked for until something
    says less."""

    reported_at: Mapping[Signal, float] = field(default_factory=dict)
    """When each did that for its own sake, and not to repeat it, in monotonic seconds."""

    held: float = 0.0
    """Requests that the wake source held back when it last told."""

    given: float = 0.0
    """Requests that it gave away, and that no replica can have told of yet."""

    given_at: float = -math.inf
    """When it told that, in monotonic seconds."""

    def leases(self, now: float) -> bool:
        """Whether the lease runs."""
        return self.lease_until is not None and now < self.lease_until

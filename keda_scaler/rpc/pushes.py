"""What a stream says, and when: decided at one instant, without waiting.

Who asks does so again when it is woken, and at the time it was told. Nothing is queued: what is
said is the newest, however long the message before took to be taken.
"""

import math
import random
from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import Message

from keda_scaler.core.decision import State
from keda_scaler.pb import externalscaler_pb2 as pb
from keda_scaler.store import Target

PUSH_SECONDS = 1.0
"""Shortest time between two messages about activity: KEDA patches the ScaledObject's status for
each."""


_ACTIVE, _INACTIVE = pb.IsActiveResponse(result=True), pb.IsActiveResponse(result=False)


class Pushes(Protocol):
    """What one stream says."""

    @property
    def method(self) -> str:
        """The method that the stream is a call of."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to say."""

    def next(self, now: float) -> tuple[Message | None, float]:
        """Give the message that is due, if one is, and when to ask again if nothing wakes it.

        Both times are the event loop's, in seconds.

        Raises:
            KedaScalerError: when the stream is to end with that.

        """


class ActivityPushes:
    """The state at once, every change of it, and from time to time again while it is not heeded.

    KEDA drops an activation that it gets too early, and one that it takes keeps the target awake:
    so "active" is repeated while replicas are wanted that do not answer, and then no more.
    """

    __slots__ = ("_has_lapsed", "_repeat_at", "_said_at", "_target", "_told")

    method = "StreamIsActive"

    def __init__(self, target: Target) -> None:
        self._target = target
        self._told: State | None = None
        self._said_at = -math.inf
        self._repeat_at = -math.inf
        self._has_lapsed = False
        """Whether the state was unknown since it was told."""

    @property
    def is_over(self) -> bool:
        """See `Pushes.is_over`."""
        return self._target.closed

    def next(self, now: float) -> tuple[Message | None, float]:
        """See `Pushes.next`."""
        decision = self._target.decision()
        state = decision.state
        if state is State.UNKNOWN:
            self._has_lapsed = True
            return None, math.inf
        is_active = state is State.ACTIVE
        if state is self._told and not (is_active and self._has_lapsed):
            if not is_active or not decision.is_short:
                return None, math.inf
            due = self._repeat_at
        else:
            due = self._said_at + PUSH_SECONDS
        if now < due:
            return None, due
        self._told, self._said_at, self._has_lapsed = state, now, False
        wait = self._target.trigger.push_repeat_seconds * random.uniform(0.9, 1.1)
        self._repeat_at = now + max(PUSH_SECONDS, wait)
        message = _ACTIVE if is_active else _INACTIVE
        return message, self._repeat_at if is_active and decision.is_short else math.inf


class SpecPushes:
    """The specs of a trigger, and again when a reload of the settings changes them."""

    __slots__ = ("_specs", "_told")

    method = "StreamMetricSpec"
    is_over = False

    def __init__(self, specs: Callable[[], pb.GetMetricSpecResponse]) -> None:
        """`specs` gives those of the moment, or raises what the stream is to end with."""
        self._specs = specs
        self._told: pb.GetMetricSpecResponse | None = None

    def next(self, now: float) -> tuple[Message | None, float]:  # noqa: ARG002  # of Pushes
        """See `Pushes.next`."""
        specs = self._specs()
        if specs == self._told:
            return None, math.inf
        self._told = specs
        return specs, math.inf

"""Requests: what clients ask of a simulated engine, and how it ends."""

from dataclasses import dataclass
from enum import StrEnum

from keda_scaler.errors import KedaScalerError


class QueueFullError(KedaScalerError):
    """The simulated engine's waiting queue is at its cap; the request was not taken."""


class FinishReason(StrEnum):
    """Why a request is over. The value is vLLM's label `finished_reason`."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    prompt_tokens: int
    """At least 1."""

    output_tokens: int
    """How many tokens will be generated; at least 1."""

    finish: FinishReason = FinishReason.STOP
    """How it will say that it ended; never abort."""

    def __post_init__(self) -> None:
        """Refuse requests that no engine could serve."""
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError("prompt_tokens and output_tokens: at least 1")
        if self.finish is FinishReason.ABORT:
            raise ValueError("finish: stop or length; call abort() to abort a request")


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that is over."""

    id: int
    """What `submit` returned."""

    request: Request
    reason: FinishReason
    generated: int
    """Tokens generated, all of them unless it was aborted."""

    at: float
    """When, in seconds of the caller's clock."""

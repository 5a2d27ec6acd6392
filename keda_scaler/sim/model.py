"""What a simulated engine is: its sizes and its speed."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineModel:
    """What one simulated engine is: its sizes and its speed."""

    name: str = "simulated-llm"
    """The served model's name."""

    max_num_seqs: int = 6
    """Requests that may run at once."""

    num_blocks: int = 128
    """Blocks of the KV cache; the default is about nine tenths full when the batch is."""

    block_size: int = 16
    """Tokens in one block."""

    prefill_rate: float = 5000.0
    """Prompt tokens read per second."""

    step_seconds: float = 0.02
    """A step with one running request; seconds per token."""

    step_seconds_per_request: float = 0.001
    """How much longer a step takes for each further running request."""

    max_waiting: int = 1000
    """Requests that may wait; more are rejected. Preempted ones may exceed it."""

    def __post_init__(self) -> None:
        """Refuse sizes and speeds with which nothing would ever finish."""
        sizes = (self.max_num_seqs, self.num_blocks, self.block_size, self.max_waiting)
        if min(sizes) < 1:
            raise ValueError("max_num_seqs, num_blocks, block_size and max_waiting: at least 1")
        if not (1 <= self.prefill_rate < math.inf and 1e-6 <= self.step_seconds < math.inf):
            raise ValueError("prefill_rate: at least 1; step_seconds: at least 1e-6")
        if not 0 <= self.step_seconds_per_request < math.inf:
            raise ValueError("step_seconds_per_request: at least 0")

    def blocks_of(self, tokens: int) -> int:
        """Give the blocks that hold so many tokens: 17 tokens in blocks of 16 take 2."""
        return -(-tokens // self.block_size)

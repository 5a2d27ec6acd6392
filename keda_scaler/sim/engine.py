"""A small model of vLLM's continuous batching: what queues, what runs, what the KV cache holds.

Rules: no I/O, no clock, no chance. Time is a parameter, in seconds of any monotonic clock, and the
same calls at the same times give the same state, however often `advance` is called in between.

Theory of operation, after `vllm/v1/core/sched/scheduler.py`, simplified:

- The engine works in steps. A step gives every running request one token. It lasts
  `step_seconds`, plus `step_seconds_per_request` for each further running request, plus the
  prompts it has to read divided by `prefill_rate`. (vLLM splits long prompts; we do not.)
- When a step begins, running requests get the KV-cache blocks that their next token needs. When
  there are none left, the newest running request loses its blocks, goes back to the head of the
  queue, and will be read again from the start: a preemption.
- Then requests leave the queue in their order, as long as there are places in the batch and blocks
  for what they hold. A step that preempted admits nobody.
- A request that arrives during a step waits for the next one; requests that arrive when a step
  begins, or when the engine is idle, are in it. An abort frees place and blocks at once; the step
  under way keeps its end.

Example: `step_seconds` 0.02, `step_seconds_per_request` 0.001, `prefill_rate` 1000. One request of
100 prompt tokens and 3 output tokens: a step of 0.12 s, then two of 0.02 s; its time to first token
is 0.12 s, it is done after 0.16 s (`test_one_request_takes_the_time_that_the_module_says`).

Inside, time is whole nanoseconds: sums of them are exact, so that a long stretch of equal steps can
be taken at once and gives what single steps would give. `advance` therefore costs one pass per
arrival, departure, admission or preemption, not per token. Only while blocks are about to run out
does it come down to single steps.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from keda_scaler.sim.histograms import (
    ITL_BOUNDS,
    NANOSECONDS,
    REQUEST_BOUNDS,
    TTFT_BOUNDS,
    Histogram,
    HistogramState,
)
from keda_scaler.sim.model import EngineModel
from keda_scaler.sim.requests import Finished, FinishReason, QueueFullError, Request


@dataclass(frozen=True, slots=True)
class EngineState:
    """Everything that an engine tells about itself, as of one instant."""

    waiting: int
    running: int
    blocks: int
    """Blocks of the KV cache in use."""

    kv_cache_usage: float
    """The share of blocks in use; 0 to 1."""

    submitted: int
    """Requests taken so far; those waiting, running and finished add up to it."""

    rejected: int
    """Requests not taken because the queue was full."""

    finished: Mapping[FinishReason, int]
    preemptions: int
    prompt_tokens: int
    """Prompt tokens of requests whose first token came."""

    queried_tokens: int
    """Tokens looked up in the prefix cache, in vain: no two prompts are alike."""

    generation_tokens: int
    ttft: HistogramState
    """From arrival to first token."""

    itl: HistogramState
    """Between two tokens of a request."""

    latency: HistogramState
    """From arrival to the last token; aborted requests are left out."""

    queue_time: HistogramState
    """From arrival to the first admission, observed with the last token; no aborted requests."""


@dataclass(slots=True, eq=False)
class _Sequence:
    """A request in the engine. Times are nanoseconds."""

    id: int
    request: Request
    arrived: int
    generated: int = 0
    blocks: int = 0
    admitted: int | None = None
    """First admission; None while it never ran."""

    last_token: int | None = None
    """None before its first token."""

    @property
    def tokens(self) -> int:
        """What it has to hold in the KV cache during a step."""
        return self.request.prompt_tokens + self.generated

    @property
    def remaining(self) -> int:
        return self.request.output_tokens - self.generated


@dataclass(slots=True)
class _Step:
    """The step under way. Times are nanoseconds."""

    began: int
    preempted: bool = False
    prefill: int = 0
    """Tokens to be read."""

    batch: int = 0
    """Requests that were running when it began."""

    end: int = 0


@dataclass(slots=True)
class _Counters:
    submitted: int = 0
    rejected: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    queried_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[FinishReason, int] = field(
        default_factory=lambda: dict.fromkeys(FinishReason, 0)
    )


class Engine:
    """One engine of the given model, empty and idle.

    `on_finish` is told of every request that is over, from within the call that moved time past
    its end; it must not call the engine.
    """

    def __init__(
        self, model: EngineModel, on_finish: Callable[[Finished], None] = lambda _: None
    ) -> None:
        self.model = model
        self._on_finish = on_finish
        self._now = 0
        self._free = model.num_blocks
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []  # in the order of admission
        self._step: _Step | None = None  # None while idle
        self._counters = _Counters()
        self._ttft = Histogram(TTFT_BOUNDS)
        self._itl = Histogram(ITL_BOUNDS)
        self._latency = Histogram(REQUEST_BOUNDS)
        self._queue_time = Histogram(REQUEST_BOUNDS)

    def submit(self, request: Request, now: float) -> int:
        """Take a request at `now` and give its id.

        Raises:
            ValueError: it could never fit in the KV cache, even alone.
            QueueFullError: too many wait already.

        """
        self.advance(now)
        if self.model.blocks_of(request.prompt_tokens + request.output_tokens - 1) > (
            self.model.num_blocks
        ):
            raise ValueError("the request is larger than the KV cache")
        if len(self._waiting) >= self.model.max_waiting:
            self._counters.rejected += 1
            raise QueueFullError("the waiting queue is full")
        self._counters.submitted += 1
        sequence = _Sequence(self._counters.submitted, request, self._now)
        self._waiting.append(sequence)
        if self._step is None:
            self._begin_step(self._now)
        elif self._step.began == self._now:
            self._admit(self._step)
        return sequence.id

    def abort(self, request_id: int, now: float) -> bool:
        """End a request at `now`; False when there is no such request any more."""
        self.advance(now)
        for sequence in (*self._running, *self._waiting):
            if sequence.id == request_id:
                held = self._running if sequence in self._running else self._waiting
                held.remove(sequence)
                self._finish(sequence, FinishReason.ABORT, self._now)
                return True
        return False

    def advance(self, now: float) -> None:
        """Move to `now`; a time before the last one counts as the last one."""
        self._now = max(self._now, round(now * NANOSECONDS))
        while self._step is not None and self._step.end <= self._now:
            ended = self._end_steps(self._step)
            self._begin_step(ended)

    def next_finish(self) -> float | None:
        """Estimate when the next request is over if nothing arrives and nobody aborts.

        None when idle. Ask again after every other call; never earlier than the end of a step.
        """
        if self._step is None:
            return None
        steps = min((sequence.remaining for sequence in self._running), default=1)
        end = self._step.end + (steps - 1) * self._decode_time(len(self._running))
        return end / NANOSECONDS

    def next_step(self) -> float | None:
        """Give when the step under way is over, if nothing arrives before; None when idle."""
        return None if self._step is None else self._step.end / NANOSECONDS

    def generated(self, request_id: int) -> int:
        """Count the tokens of a request that is not over, as of the last call; 0 of any other."""
        found = (each for each in (*self._running, *self._waiting) if each.id == request_id)
        return next((sequence.generated for sequence in found), 0)

    def state(self) -> EngineState:
        """Tell everything, as of the last `advance`, `submit` or `abort`."""
        used = self.model.num_blocks - self._free
        counters = self._counters
        return EngineState(
            waiting=len(self._waiting),
            running=len(self._running),
            blocks=used,
            kv_cache_usage=used / self.model.num_blocks,
            submitted=counters.submitted,
            rejected=counters.rejected,
            finished=dict(counters.finished),
            preemptions=counters.preemptions,
            prompt_tokens=counters.prompt_tokens,
            queried_tokens=counters.queried_tokens,
            generation_tokens=counters.generation_tokens,
            ttft=self._ttft.state(),
            itl=self._itl.state(),
            latency=self._latency.state(),
            queue_time=self._queue_time.state(),
        )

    def _begin_step(self, at: int) -> None:
        if not self._running and not self._waiting:
            self._step = None
            return
        step = self._step = _Step(began=at)
        self._grow(step)
        self._admit(step)

    def _grow(self, step: _Step) -> None:
        """Give running requests the blocks of their next token, oldest first.

        The oldest always gets its own: alone it fits, or it would not have been taken.
        """
        index = 0
        while index < len(self._running):
            wanted = self.model.blocks_of(self._running[index].tokens) - self._running[index].blocks
            if wanted <= self._free:
                self._running[index].blocks += wanted
                self._free -= wanted
                index += 1
            else:
                self._preempt(self._running.pop())
                step.preempted = True

    def _preempt(self, sequence: _Sequence) -> None:
        self._free += sequence.blocks
        sequence.blocks = 0
        self._waiting.appendleft(sequence)
        self._counters.preemptions += 1

    def _admit(self, step: _Step) -> None:
        """Move requests from the queue into the step, and say when it ends."""
        while not step.preempted and self._head_fits():
            sequence = self._waiting.popleft()
            sequence.blocks = self.model.blocks_of(sequence.tokens)
            self._free -= sequence.blocks
            if sequence.admitted is None:
                sequence.admitted = step.began
            self._running.append(sequence)
            self._counters.queried_tokens += sequence.tokens
            step.prefill += sequence.tokens
        step.batch = len(self._running)
        read = round(step.prefill / self.model.prefill_rate * NANOSECONDS)
        step.end = step.began + self._decode_time(step.batch) + read

    def _head_fits(self) -> bool:
        return (
            bool(self._waiting)
            and len(self._running) < self.model.max_num_seqs
            and self.model.blocks_of(self._waiting[0].tokens) <= self._free
        )

    def _decode_time(self, batch: int) -> int:
        further = self.model.step_seconds_per_request * max(0, batch - 1)
        return round((self.model.step_seconds + further) * NANOSECONDS)

    def _end_steps(self, step: _Step) -> int:
        """End the step, and as many equal ones after it as are over; give when the last ended."""
        steps = self._equal_steps(step)
        duration = step.end - step.began
        end = step.end + (steps - 1) * duration
        for sequence in self._running:
            if sequence.last_token is None:
                self._ttft.observe(step.end - sequence.arrived)
                self._counters.prompt_tokens += sequence.request.prompt_tokens
            else:
                self._itl.observe(step.end - sequence.last_token)
            if steps > 1:
                self._itl.observe(duration, steps - 1)
                held = self.model.blocks_of(sequence.tokens + steps - 1)
                self._free -= held - sequence.blocks
                sequence.blocks = held
            sequence.generated += steps
            sequence.last_token = end
        self._counters.generation_tokens += steps * len(self._running)
        self._finish_done(end)
        return end

    def _equal_steps(self, step: _Step) -> int:
        """Count the steps, this one included, that are over and differ in nothing but their time.

        They end before anybody leaves, nobody can be admitted (free blocks only get fewer), and
        blocks suffice. Halving keeps the search short where they do not.
        """
        if step.prefill or step.batch != len(self._running) or not self._running:
            return 1
        if self._head_fits():
            return 1
        over = 1 + (self._now - step.end) // (step.end - step.began)
        steps = min(over, *(sequence.remaining for sequence in self._running))
        while steps > 1 and self._wanted(steps) > self._free:
            steps //= 2
        return steps

    def _wanted(self, steps: int) -> int:
        """Count the further blocks that so many steps, this one included, would take."""
        return sum(
            self.model.blocks_of(sequence.tokens + steps - 1) - sequence.blocks
            for sequence in self._running
        )

    def _finish_done(self, at: int) -> None:
        for sequence in [each for each in self._running if each.remaining <= 0]:
            self._running.remove(sequence)
            self._latency.observe(at - sequence.arrived)
            if sequence.admitted is not None:
                self._queue_time.observe(sequence.admitted - sequence.arrived)
            self._finish(sequence, sequence.request.finish, at)

    def _finish(self, sequence: _Sequence, reason: FinishReason, at: int) -> None:
        self._free += sequence.blocks
        self._counters.finished[reason] += 1
        self._on_finish(
            Finished(sequence.id, sequence.request, reason, sequence.generated, at / NANOSECONDS)
        )

"""What OpenAI's API asks and answers, as far as clients of a simulated engine need it.

Fields that mean nothing here are accepted and left alone.
"""

import json
from typing import Any

from pydantic import BaseModel, Field

from keda_scaler.sim.requests import Finished, FinishReason, Request

MAX_TOKENS = 1_000_000
"""Of a prompt or an answer."""

STREAM_END = b"data: [DONE]\n\n"
"""The last event of a stream."""

_CHARACTERS_PER_TOKEN = 4
"""Of English text, about."""


class _Asked(BaseModel):
    """What both kinds of completions take."""

    prompt_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    """None: as many as the prompt has, at four characters each."""

    max_tokens: int = Field(default=16, ge=1, le=MAX_TOKENS)
    """OpenAI's default."""

    @property
    def text(self) -> str:
        """The prompt."""
        raise NotImplementedError

    def to_request(self) -> Request:
        """Give what the engine is asked for."""
        guess = max(1, len(self.text) // _CHARACTERS_PER_TOKEN)
        return Request(self.prompt_tokens or guess, self.max_tokens, FinishReason.LENGTH)


class Completion(_Asked):
    """The body of /v1/completions."""

    prompt: str = ""

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt


class _Message(BaseModel):
    content: str = ""


class Chat(_Asked):
    """The body of /v1/chat/completions."""

    messages: list[_Message] = Field(min_length=1, max_length=1000)
    stream: bool = False

    @property
    def text(self) -> str:
        """The prompt."""
        return "".join(message.content for message in self.messages)


def completion(model: str, finished: Finished) -> dict[str, Any]:
    """Write the answer of /v1/completions."""
    choice = {"index": 0, "text": "", "finish_reason": finished.reason}
    return _answer("text_completion", model, finished, choice)


def chat(model: str, finished: Finished) -> dict[str, Any]:
    """Write the answer of /v1/chat/completions without a stream."""
    message = {"role": "assistant", "content": _words(finished.generated)}
    choice = {"index": 0, "message": message, "finish_reason": finished.reason}
    return _answer("chat.completion", model, finished, choice)


def chunk(model: str, request_id: int, tokens: int, finish: FinishReason | None = None) -> bytes:
    """Write an event of a stream: further tokens, and how it ended if it did."""
    data = {
        "id": f"cmpl-{request_id}",
        "object": "chat.completion.chunk",
        "model": model,
        "choices": [{"index": 0, "delta": {"content": _words(tokens)}, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _words(tokens: int) -> str:
    return "word " * tokens


def _answer(kind: str, model: str, finished: Finished, choice: dict[str, object]) -> dict[str, Any]:
    prompt = finished.request.prompt_tokens
    return {
        "id": f"cmpl-{finished.id}",
        "object": kind,
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": finished.generated,
            "total_tokens": prompt + finished.generated,
        },
    }

"""Load for any server with OpenAI's chat API: streamed answers, with the times that readers feel.

    LOAD_MODEL=llama locust --headless --locustfile locustfile.py \
        --host http://gateway:8080 --users 100 --spawn-rate 100 --run-time 60s --stop-timeout 600

Every user asks, reads the answer to its end, and asks again. Nothing is tried again: what fails,
counts. Rows of the statistics beside `POST chat`, which is a whole answer, in milliseconds:

    TTFT    first token          from the request to its first token
    ITL     mean of an answer    between two tokens, or chunks of them where the server sends those
    ITL     longest of an answer the worst stall of each answer
    status  200, 503 ...         how many answers had which; 0 is no answer at all

What the flags below say can come from the environment as well: LOAD_MODEL and so on.
"""

import itertools
import json
import os
import random
import ssl
import time
from collections.abc import Iterator
from typing import Any

import gevent
from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS, ResponseContextManager
from locust.env import Environment
from locust.exception import StopUser

_CHARACTERS_PER_TOKEN = 4
"""Of English text, about."""

_WORDS = ("of ", "all ", "that ", "models ", "have ", "been ", "asked ", "today ")
_TEXTS = ("content", "reasoning_content", "reasoning")
"""Where engines put the text of a token: in an answer, or in what was thought before it."""

_PAUSE_SECONDS = 1.0
"""After a request that failed, so that what is broken is not asked thousands of times."""

_answered = itertools.count(1)


@events.init_command_line_parser.add_listener
def _flags(parser: LocustArgumentParser) -> None:
    """Say what can be chosen, beside locust's own flags."""

    def add(flag: str, kind: type, default: object, text: str, **more: Any) -> None:
        name = "LOAD_" + flag.upper().replace("-", "_")
        parser.add_argument(
            f"--{flag}", type=kind, default=default, env_var=name, help=text, **more
        )

    add("model", str, None, "The model's name, as requests give it.", required=True)
    add("path", str, "/v1/chat/completions", "Where completions are asked for.")
    add("prompt-tokens", int, 200, "Length of a prompt, about.")
    add("max-tokens", int, 100, "Length of an answer, at most.")
    add("timeout-seconds", float, 600.0, "Longest silence; more than a cold start takes.")
    add("requests", int, 0, "Stop when so many were answered. 0: never.")
    add("api-key", str, "", "Bearer token. Better in the environment than here.", is_secret=True)


class Reader(FastHttpUser):
    """Asks, reads the answer as it comes, and asks again."""

    concurrency = 1
    insecure = False
    max_redirects = 0

    def __init__(self, environment: Environment) -> None:
        self.network_timeout = environment.parsed_options.timeout_seconds
        super().__init__(environment)

    @staticmethod
    def ssl_context_factory(cafile: str) -> ssl.SSLContext:
        """Trust the CA that SSL_CERT_FILE names, or else those that everybody trusts."""
        return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE", cafile))

    @task
    def chat(self) -> None:
        """Ask once."""
        options = self.environment.parsed_options
        key = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        body = {
            "model": options.model,
            "messages": [{"role": "user", "content": _prompt(options.prompt_tokens)}],
            "max_tokens": options.max_tokens,
            "stream": True,
        }
        asked = time.perf_counter()
        with self.client.post(
            options.path, json=body, headers=key, name="chat", stream=True, catch_response=True
        ) as answer:
            self._tell("status", str(answer.status_code), time.perf_counter() - asked)
            problem = _refusal(answer)
            if not problem:
                tokens, problem = _read(answer)
                self._tell_times(asked, tokens)
            answer.request_meta["response_time"] = (time.perf_counter() - asked) * 1000
            if problem:
                answer.failure(problem)
        if next(_answered) == options.requests:
            gevent.spawn(self.environment.runner.quit)  # it waits for the users, this one included
            raise StopUser
        if problem:
            time.sleep(_PAUSE_SECONDS)

    def _tell_times(self, asked: float, tokens: list[float]) -> None:
        if tokens:
            self._tell("TTFT", "first token", tokens[0] - asked)
        gaps = [later - earlier for earlier, later in itertools.pairwise(tokens)]
        if gaps:
            self._tell("ITL", "mean of an answer", sum(gaps) / len(gaps))
            self._tell("ITL", "longest of an answer", max(gaps))

    def _tell(self, kind: str, name: str, seconds: float) -> None:
        """Add to a row of the statistics."""
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=seconds * 1000,
            response_length=0,
            exception=None,
            context={},
        )


def _prompt(tokens: int) -> str:
    """Write a prompt that begins like no other, so that no prefix cache knows it."""
    begin = f"{random.getrandbits(64):016x} "
    words = itertools.cycle(_WORDS)
    text = begin + "".join(itertools.islice(words, tokens))
    return text[: tokens * _CHARACTERS_PER_TOKEN]


def _refusal(answer: ResponseContextManager) -> str:
    """Say why there is no stream to read; empty: there is one."""
    if answer.status_code == 0:
        return f"no answer: {type(answer.error).__name__}"
    return "" if answer.status_code == 200 else f"HTTP {answer.status_code}"


def _read(answer: ResponseContextManager) -> tuple[list[float], str]:
    """Read a stream to its end: when each token came, and what was wrong with it, if anything."""
    tokens: list[float] = []
    has_ended = False
    try:
        for data in _data(answer):
            if data == b"[DONE]":
                has_ended = True
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                return tokens, "an error in the stream"
            for choice in chunk.get("choices", ()):
                if any(choice.get("delta", {}).get(text) for text in _TEXTS):
                    tokens.append(time.perf_counter())
                has_ended = has_ended or choice.get("finish_reason") is not None
    except FAILURE_EXCEPTIONS as error:
        return tokens, f"cut off: {type(error).__name__}"
    except (ValueError, AttributeError, TypeError):
        return tokens, "not a stream of chat chunks"
    if not has_ended:
        return tokens, "cut off: no end"
    return tokens, "" if tokens else "no token"


def _data(answer: ResponseContextManager) -> Iterator[bytes]:
    """Give the payload of each server-sent event, the moment that it is there."""
    while line := answer.stream.readline(b"\n"):
        if line.startswith(b"data:"):
            yield bytes(line[len(b"data:") :]).strip()

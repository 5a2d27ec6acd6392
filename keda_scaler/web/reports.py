"""POST /v1/reports: who may report what, in which form, and what is answered."""

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from keda_scaler.core.reports import Report
from keda_scaler.errors import ReportsUnavailableError, TooManyReportsError
from keda_scaler.sources.reports import Reports
from keda_scaler.web.tokens import ANY, Tokens

MAX_BODY_BYTES = 256 * 2**10
"""One request: the most reports, of 260 bytes each."""

MAX_REPORTS = 1000
"""Reports of one request."""

BODY_SECONDS = 5.0
"""Longest wait for the body of a request."""

RETRY_SECONDS = 1
"""What a reporter is told to wait before it tries again."""

_MAX_PROBLEMS = 20
"""Problems that one answer lists."""

_SHOWN = 80
"""Characters of a wrong value that an answer repeats."""

_MAX_REQUESTS = 10**9
_MAX_TTL_SECONDS = 86400

_COUNT = f"a whole number from 0 to {_MAX_REQUESTS}"

_ACCEPTED = {
    "namespace": "the name of the ScaledObject's namespace",
    "name": "the name of the ScaledObject",
    "waiting": _COUNT,
    "running": _COUNT,
    "ttlSeconds": f"a whole number from 1 to {_MAX_TTL_SECONDS}",
    "reporter": "1 to 128 letters, digits and . _ : / -",
}

_Count = Annotated[int, Field(ge=0, le=_MAX_REQUESTS)]


class _Stated(BaseModel):
    """One report, as it is posted."""

    model_config = ConfigDict(strict=True, extra="forbid", alias_generator=to_camel)

    namespace: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$")]
    waiting: _Count
    running: _Count = 0
    ttl_seconds: Annotated[int, Field(ge=1, le=_MAX_TTL_SECONDS)] = 30
    reporter: Annotated[str, StringConstraints(pattern=r"^[-A-Za-z0-9._:/]{1,128}$")] | None = None


class _WrongError(Exception):
    """Reports that are not as they must be. `problems` as they are answered."""

    def __init__(self, problems: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.problems = problems


class ReportsApi:
    """Takes reports from those who have a token."""

    def __init__(self, reports: Reports, tokens: Tokens) -> None:
        self._reports = reports
        self._tokens = tokens

    async def post(self, request: web.Request) -> web.Response:
        """Take reports, all or none."""
        spoken_for = await self._tokens.namespaces(_bearer(request))
        if not spoken_for:
            return _refusal(401, "a known bearer token is needed", {"WWW-Authenticate": "Bearer"})
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _refusal(413, f"at most {MAX_BODY_BYTES} bytes are accepted; send several")
        except TimeoutError:
            return _refusal(408, f"the body took longer than {BODY_SECONDS:g} s")
        try:
            stated = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            return _refusal(400, f"the body is not JSON: {error}")
        try:
            reports = parse_reports(stated, request.remote or "unknown")
        except _WrongError as error:
            return web.json_response({"errors": error.problems}, status=422)
        if ANY not in spoken_for:
            foreign = _foreign(reports, spoken_for, alone=isinstance(stated, dict))
            if foreign:
                return web.json_response({"errors": foreign}, status=403)
        return await self._keep(reports)

    async def _keep(self, reports: Sequence[Report]) -> web.Response:
        wait = {"Retry-After": str(RETRY_SECONDS)}
        try:
            await self._reports.state(reports)
        except TooManyReportsError as error:
            return _refusal(429, str(error), wait)
        except ReportsUnavailableError as error:
            return _refusal(503, f"{error}; state it again", wait)
        return web.json_response({"accepted": len(reports)})


async def not_enabled(_: web.Request) -> web.Response:
    """Answer for a server that takes no reports."""
    return _refusal(404, "this server takes no reports; start it with --report-tokens")


def parse_reports(stated: Any, sender: str) -> list[Report]:
    """Read what was posted. A report without a `reporter` is the sender's.

    Raises:
        _WrongError: with its problems; of very many, the first.

    """
    alone = isinstance(stated, dict)
    entries = [stated] if alone else stated
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_REPORTS:
        got = f"{len(entries)} reports" if isinstance(entries, list) else _shown(stated)
        accepted = f"one object, or an array of 1 to {MAX_REPORTS}"
        raise _WrongError([{"field": "", "got": got, "accepted": accepted}])
    reports: list[Report] = []
    problems: list[dict[str, Any]] = []
    for index, entry in enumerate(entries):
        try:
            one = _Stated.model_validate(_bounded(entry))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            problems += [_problem(each, _place(index, alone=alone)) for each in found]
            if len(problems) >= _MAX_PROBLEMS:
                break
        else:
            reporter = one.reporter or sender
            counts = one.waiting, one.running, float(one.ttl_seconds)
            reports.append(Report(one.namespace, one.name, reporter, *counts))
    if problems:
        raise _WrongError(problems[:_MAX_PROBLEMS])
    return reports


def _bounded(entry: Any) -> Any:
    """Leave out of very many unknown fields all but some: each costs time to complain about."""
    if not isinstance(entry, dict) or len(entry) <= _MAX_PROBLEMS:
        return entry
    known = {key: entry[key] for key in _ACCEPTED if key in entry}
    return dict(islice(entry.items(), _MAX_PROBLEMS)) | known


def _place(index: int, *, alone: bool) -> Callable[[str], str]:
    """Give what names a field of one report."""
    entry = "" if alone else f"[{index}]"
    return lambda field: f"{entry}.{field}" if entry and field else entry or field


def _problem(problem: Any, place: Callable[[str], str]) -> dict[str, Any]:
    name = str(problem["loc"][0])[:_SHOWN] if problem["loc"] else ""
    accepted = _ACCEPTED.get(name, f"an object with {', '.join(_ACCEPTED)}")
    got = "nothing" if problem["type"] == "missing" else _shown(problem["input"])
    if problem["type"] == "extra_forbidden":
        got, accepted = "an unknown field", f"only {', '.join(_ACCEPTED)}"
    return {"field": place(name), "got": got, "accepted": accepted}


def _foreign(
    reports: Sequence[Report], spoken_for: frozenset[str], *, alone: bool
) -> list[dict[str, Any]]:
    """Name the reports about namespaces that the token may not speak for."""
    accepted = f"{', '.join(sorted(spoken_for)[:_MAX_PROBLEMS])}, by this token"
    return [
        {
            "field": _place(index, alone=alone)("namespace"),
            "got": report.namespace,
            "accepted": accepted,
        }
        for index, report in enumerate(reports)
        if report.namespace not in spoken_for
    ][:_MAX_PROBLEMS]


def _shown(value: Any) -> Any:
    """Repeat a wrong value, or the beginning of it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    text = value if isinstance(value, str) else json.dumps(value)
    return value if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _refusal(status: int, error: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": error}, status=status, headers=headers)

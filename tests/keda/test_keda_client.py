"""How KEDA asks, against a real server."""

import asyncio
import math
from dataclasses import replace

import grpc
import pytest
import trustme

from keda_scaler.keda.client import (
    Failure,
    Measured,
    MetricResult,
    ScalerClient,
    Tls,
    TriggerResult,
    open_channel,
    read_number,
)
from keda_scaler.keda.scaledobject import KedaTrigger, ScaledObject
from keda_scaler.pb import externalscaler_pb2 as pb
from scripted_scaler import (
    ACTIVE,
    INACTIVE,
    Hang,
    Refusal,
    ScriptedScaler,
    serving,
    spec,
    specs,
    values,
)

TRIGGER = KedaTrigger(2, "external", {"scalerAddress": "x:1", "service": "llm"})
OBJECT = ScaledObject("llm", "models", triggers=(TRIGGER,))
BROKEN = Refusal(grpc.StatusCode.UNAVAILABLE, "broken")
ROUND = ["GetMetricSpec", "GetMetrics queue-depth", "IsActive"]


async def ask(
    scaler: ScriptedScaler, *, within: float | None = 5.0, trigger: KedaTrigger = TRIGGER
) -> TriggerResult:
    """Serve the script and ask it once."""
    async with serving(scaler) as address, open_channel(address) as channel:
        return await ScalerClient(channel).ask(OBJECT, trigger, within=within)


async def test_one_round() -> None:
    """Specs, then values, then activity; the HPA's name has the trigger's index."""
    scaler = ScriptedScaler()
    result = await ask(scaler)
    assert result.metrics == (
        MetricResult("queue-depth", "s2-queue-depth", 5.0, Measured((12.0,), is_active=True)),
    )
    assert (result.is_active, result.is_error, result.is_hold) == (True, False, False)
    assert scaler.calls == ROUND
    assert all(
        (reference.name, reference.namespace, dict(reference.scalerMetadata))
        == ("llm", "models", TRIGGER.metadata)
        for reference in scaler.references
    )


async def test_every_spec_is_asked_for_in_turn() -> None:
    """GetMetrics and IsActive once for each spec; the last activity counts, as in KEDA's poll."""
    scaler = ScriptedScaler([specs(spec("a", 1), spec("b", 2.5))], active_script=[ACTIVE, INACTIVE])
    result = await ask(scaler)
    assert scaler.calls == ["GetMetricSpec", "GetMetrics a", "IsActive", "GetMetrics b", "IsActive"]
    assert not result.is_active


@pytest.mark.parametrize(
    ("scaler", "calls"),
    [
        (
            ScriptedScaler([BROKEN, specs(spec("queue-depth", 5))]),
            ["GetMetricSpec", *ROUND],
        ),
        (
            ScriptedScaler([specs(), specs(spec("queue-depth", 5))]),
            ["GetMetricSpec", *ROUND],
        ),
        (
            ScriptedScaler(metrics_script=[BROKEN, values(12)]),
            [*ROUND[:2], *ROUND[1:]],
        ),
        (
            ScriptedScaler(active_script=[BROKEN, ACTIVE]),
            [*ROUND, *ROUND[1:]],
        ),
    ],
    ids=["specs", "empty specs", "values", "activity"],
)
async def test_what_fails_is_tried_once_more(scaler: ScriptedScaler, calls: list[str]) -> None:
    """One failure is made good by a second try at once; values and activity are one."""
    result = await ask(scaler)
    assert not result.is_error
    assert scaler.calls == calls


@pytest.mark.parametrize(
    ("scaler", "failure", "calls"),
    [
        (
            ScriptedScaler([BROKEN]),
            Failure("GetMetricSpec", grpc.StatusCode.UNAVAILABLE, "broken"),
            ["GetMetricSpec"] * 2,
        ),
        (
            ScriptedScaler([specs()]),
            Failure("GetMetricSpec", grpc.StatusCode.OK, "got empty metric spec"),
            ["GetMetricSpec"] * 2,
        ),
        (
            ScriptedScaler(metrics_script=[BROKEN]),
            Failure("GetMetrics", grpc.StatusCode.UNAVAILABLE, "broken"),
            [*ROUND[:2], ROUND[1]],
        ),
        (
            ScriptedScaler(active_script=[BROKEN]),
            Failure("IsActive", grpc.StatusCode.UNAVAILABLE, "broken"),
            [*ROUND, *ROUND[1:]],
        ),
    ],
    ids=["specs", "empty specs", "values", "activity"],
)
async def test_two_failures_are_an_error(
    scaler: ScriptedScaler, failure: Failure, calls: list[str]
) -> None:
    """No third try; a value without an activity is thrown away."""
    result = await ask(scaler)
    assert result.failures == (failure,)
    assert (result.is_error, result.is_active) == (True, False)
    assert scaler.calls == calls


@pytest.mark.parametrize(
    ("metrics", "activity", "expected"),
    [
        ([values(1), BROKEN, BROKEN], [ACTIVE], (True, True)),
        ([BROKEN, BROKEN, values(1)], [INACTIVE], (False, True)),
        ([BROKEN, BROKEN, values(1)], [ACTIVE], (True, True)),
    ],
)
async def test_one_spec_of_two_fails(
    metrics: list[object], activity: list[object], expected: tuple[bool, bool]
) -> None:
    """Activity is that of the last spec that answered, and an error is an error beside it."""
    scaler = ScriptedScaler([specs(spec("a", 1), spec("b", 1))], metrics, activity)
    result = await ask(scaler)
    assert (result.is_active, result.is_error) == expected


async def test_several_values_are_summed_and_none_is_the_hold() -> None:
    """The HPA sums what KEDA gives one name, and gets nothing at all from an empty answer."""
    several = await ask(ScriptedScaler(metrics_script=[values(12, 20)]))
    assert not isinstance(several.metrics, Failure)
    assert isinstance(several.metrics[0].answer, Measured)
    assert several.metrics[0].answer.total == 32
    hold = await ask(ScriptedScaler(metrics_script=[values()]))
    assert (hold.is_hold, hold.is_active, hold.is_error) == (True, True, False)


@pytest.mark.parametrize(
    ("real", "whole", "number"),
    [
        (7.25, 0, 7.25),
        (7.25, 99, 7.25),
        (0.0, 30, 30.0),
        (0.0, 0, 0.0),
        (math.inf, 7, 0.0),
        (-math.inf, 7, 7.0),
        (math.nan, 16, 16.0),
        (-5.0, -5, 0.0),
        (-5.0, 3, 3.0),
        (0.0004, 9, 0.0),
        (0.0006, 9, 0.001),
        (1.23456, 0, 1.235),
    ],
)
async def test_numbers(real: float, whole: int, number: float) -> None:
    """The float counts when above 0, infinity is 0, all else is the integer, at least 0."""
    assert read_number(real, whole) == number
    value = pb.MetricValue(metricName="a", metricValueFloat=real, metricValue=whole)
    result = await ask(ScriptedScaler(metrics_script=[pb.GetMetricsResponse(metricValues=[value])]))
    assert not isinstance(result.metrics, Failure)
    assert result.metrics[0].answer == Measured((number,), is_active=True)


async def test_a_poll_has_no_deadline_and_a_query_has() -> None:
    """The server sees a deadline only where one was asked for."""
    scaler = ScriptedScaler()
    await ask(scaler, within=None)
    assert not any(left is not None and left < 1e6 for left in scaler.remaining)
    scaler = ScriptedScaler()
    await ask(scaler, within=60.0)
    assert all(left is not None and 50 < left < 61 for left in scaler.remaining)


async def test_the_deadline_is_that_of_all_calls_together() -> None:
    """A scaler that hangs costs the deadline once, tries included."""
    started = asyncio.get_running_loop().time()
    result = await ask(ScriptedScaler([Hang()]), within=0.2)
    assert asyncio.get_running_loop().time() - started < 2
    assert result.failures[0].code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_what_cannot_be_resolved_is_not_sent() -> None:
    """KEDA drops a ...FromEnv key that the workload does not have; here none can be resolved."""
    scaler = ScriptedScaler()
    await ask(scaler, trigger=replace(TRIGGER, metadata={"a": "b", "tokenFromEnv": "TOKEN"}))
    assert dict(scaler.references[0].scalerMetadata) == {"a": "b"}


async def test_foreign_text_cannot_steer_a_terminal() -> None:
    """An error's text is kept to one printable line."""
    refusal = Refusal(grpc.StatusCode.INTERNAL, "a\x1b[2Jb\r\nc" + "x" * 1000)
    result = await ask(ScriptedScaler([refusal]))
    assert result.failures[0].detail.startswith("a [2Jb cx")
    assert len(result.failures[0].detail) <= 500
    assert str(result.failures[0]).startswith("GetMetricSpec INTERNAL: a [2Jb")


async def test_mutual_tls() -> None:
    """The connection is made with a CA and a client certificate, for the name that KEDA checks."""
    ca = trustme.CA()
    server, client = ca.issue_cert("scaler.keda"), ca.issue_cert("keda")
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())],
        ca.cert_pem.bytes(),
        require_client_auth=True,
    )
    tls = Tls(
        ca.cert_pem.bytes(),
        client.cert_chain_pems[0].bytes(),
        client.private_key_pem.bytes(),
        "scaler.keda",
    )
    async with serving(ScriptedScaler(), credentials) as address:
        for options, is_error in (
            (tls, False),
            (replace(tls, server_name=None), True),
            (replace(tls, certificate=None, key=None), True),
            (None, True),
        ):
            async with open_channel(address, options) as channel:
                result = await ScalerClient(channel).ask(OBJECT, TRIGGER, within=5.0)
            assert result.is_error is is_error

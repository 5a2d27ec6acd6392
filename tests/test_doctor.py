"""Each check of the doctor: its line when all is well, and its line when that one thing is not."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from doctor_scene import BUSY, HPA, Scene, condition, manifest, scene, settings
from hostile_servers import NAME, resolving
from keda_scaler.doctor import examine as examining
from keda_scaler.doctor import scaler as calling
from keda_scaler.doctor.checks import Check, Status, exit_code, fail, ok, plain, skipped, warn
from keda_scaler.doctor.families import nearest
from keda_scaler.keda.scaledobject import parse_scaled_object
from keda_scaler.probe import TlsFiles
from keda_scaler.sim.kubernetes import SimulatedEndpoint
from keda_scaler.sources import pages
from keda_scaler.sources.apiserver import at_url
from metrics_page import CAPTURES, Page
from prometheus_fake import FakePrometheus
from prometheus_server import PrometheusProcess
from scripted_scaler import Refusal, ScriptedScaler, serving, values
from wake_fixtures import queue

NOWHERE = "127.0.0.1:1"
OWN = {"selector": 'job="pods"', "targetConcurrency": "5"}


async def test_all_is_well() -> None:
    """Every check has its line, in order, and each says what it found."""
    async with scene() as it:
        checks = await it.checks()
    assert {name: (check.status, check.says) for name, check in checks.items()} == {
        "scaler": ("ok", f"{it.address} answers (plain text)"),
        "health": ("ok", "SERVING"),
        "reflection": ("ok", "externalscaler.ExternalScaler with 5 calls, KEDA 2.21"),
        "kubernetes": ("ok", "endpointslices may be listed and watched in models"),
        "endpoints": ("ok", "1 of 1 ready"),
        "page": ("ok", checks["page"].says),
        "engine": ("ok", checks["engine"].says),
        "families": (
            "ok",
            "vllm:num_requests_waiting, vllm:num_requests_running, vllm:kv_cache_usage_perc",
        ),
        "wake": ("ok", "epp is read: 0 requests held, 0 in all"),
        "keda": ("ok", "ready; active: True"),
        "hpa": ("ok", f"{HPA}: has 1 and wants 2 replicas"),
        "events": ("ok", "no warnings about the HPA in 0 events"),
        "answers": ("ok", checks["answers"].says),
    }
    assert list(checks) == [
        *("scaler", "health", "reflection", "kubernetes", "endpoints", "page", "engine"),
        *("families", "wake", "keda", "hpa", "events", "answers"),
    ]
    assert checks["page"].says.startswith("1 read, ")
    assert checks["engine"].says == f"vllm; model {checks['engine'].models[0]}"
    assert "active" in checks["answers"].says
    assert exit_code(checks.values()) == 0
    assert not any(check.then for check in checks.values())


# What is wrong with the cluster, the replicas, the gateway, KEDA and the HPA


async def _zero(it: Scene) -> None:
    it.cluster.put_service("models", "llama", [])


async def _no_service(it: Scene) -> None:
    it.cluster.delete_service("models", "llama")


async def _wrong_port(it: Scene) -> None:
    it.trigger["port"] = "admin"


async def _no_page(it: Scene) -> None:
    await it.page.stop()


async def _half_the_pages(it: Scene) -> None:
    port = int(it.page.address.rpartition(":")[2])
    there = SimulatedEndpoint("127.0.0.1", "llama-0", port)
    it.cluster.put_service(
        "models", "llama", [there, SimulatedEndpoint("127.0.0.2", "llama-1", port)]
    )


async def _unknown_engine(it: Scene) -> None:
    it.page.body = BUSY.replace("vllm:", "vlm:")


async def _renamed_family(it: Scene) -> None:
    it.page.body = BUSY.replace("vllm:num_requests_waiting", "vllm:num_requests_queued")


async def _lacking_signal(it: Scene) -> None:
    it.page.body = (CAPTURES / "tgi__busy.prom").read_text()
    it.trigger |= {"targetTtftSeconds": "1", "targetQueueDepth": "5"}


async def _other_model(it: Scene) -> None:
    it.trigger["model"] = "no-such-model"


async def _no_gateway(it: Scene) -> None:
    await it.gateway.stop()


async def _other_gateway(it: Scene) -> None:
    it.gateway.body = BUSY


async def _nothing_wakes(it: Scene) -> None:
    del it.trigger["wakeFrom"], it.trigger["wakeService"]


async def _need_not_wake(it: Scene) -> None:
    await _nothing_wakes(it)
    it.minimum = 1


async def _requests(it: Scene) -> None:
    it.gateway.body = queue(3)


async def _no_rights(it: Scene) -> None:
    it.cluster.objects.forbidden.add("endpointslices")


async def _not_ready(it: Scene) -> None:
    why = "ScaledObjectCheckFailed", "failed to ensure HPA is correctly created"
    it.scaled_object["conditions"] = [condition("Ready", "False", *why)]


async def _no_conditions(it: Scene) -> None:
    it.scaled_object["conditions"] = []


async def _in_fallback(it: Scene) -> None:
    it.scaled_object["conditions"].append(condition("Fallback", "True", "FallbackExists", "ex"))


async def _paused(it: Scene) -> None:
    it.scaled_object["conditions"].append(condition("Paused", "True"))


async def _failing(it: Scene) -> None:
    it.scaled_object["health"] = {"s0-queue-depth": {"numberOfFailures": 4, "status": "Failing"}}


async def _unread_objects(it: Scene) -> None:
    it.cluster.objects.forbidden |= {"scaledobjects", "horizontalpodautoscalers"}


async def _no_metric(it: Scene) -> None:
    why = "FailedGetExternalMetric", "unable to get external metric"
    it.hpa["conditions"] = [condition("ScalingActive", "False", *why)]


async def _asleep(it: Scene) -> None:
    it.hpa["conditions"] = [condition("ScalingActive", "False", "ScalingDisabled", "at zero")]


async def _other_hpa(it: Scene) -> None:
    it.scaled_object["hpaName"] = "not-there"


async def _warned(it: Scene) -> None:
    for minute in range(5):
        it.event("Warning", f"Failed{minute}", "no\x1b[31m metric", f"2026-01-01T00:0{minute}:00Z")
    it.event("Normal", "SuccessfulRescale", "New size: 2")


async def _refused(it: Scene) -> None:
    it.trigger |= {"pollSeconds": "0", "sevice": "x"}


Break = Callable[[Scene], Awaitable[None]]


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (
            _zero,
            [
                ("endpoints", "ok", "has no endpoints: at zero replicas", ""),
                ("page", "skipped", "no replica runs", ""),
            ],
        ),
        (
            _no_service,
            [
                ("endpoints", "fail", "no EndpointSlice of Service llama", "spelled right"),
                ("families", "skipped", "no endpoints are known", ""),
            ],
        ),
        (_wrong_port, [("endpoints", "fail", "has no port admin", "give `port`")]),
        (
            _no_page,
            [
                ("page", "fail", "llama-0: cannot connect: Connection refused", "port and path"),
                ("engine", "skipped", "no page was read", ""),
            ],
        ),
        (
            _half_the_pages,
            [
                ("page", "warn", "1 not read: llama-1: cannot connect", "port and path"),
                ("engine", "ok", "vllm; of 1 replicas it is not known", ""),
                ("families", "ok", "vllm:num_requests_waiting", ""),
            ],
        ),
        (_unknown_engine, [("engine", "fail", "nearest on the page: vlm:", "give `engine`")]),
        (
            _renamed_family,
            [
                ("families", "fail", "queued", "present flags and version"),
                ("families", "fail", "no series of vllm:num_requests_waiting", "flags"),
            ],
        ),
        (
            _lacking_signal,
            [("families", "warn", "tgi has no ttft; it has tgi_queue_size", "no say")],
        ),
        (_other_model, [("families", "fail", "no series of model 'no-such-model'", "flags")]),
        (_no_gateway, [("wake", "fail", "epp: epp-0: cannot connect", "docs/gateways.md")]),
        (_other_gateway, [("wake", "fail", "the page is not of", "docs/gateways.md")]),
        (_nothing_wakes, [("wake", "fail", "nothing wakes it", "minReplicaCount 1")]),
        (_need_not_wake, [("wake", "skipped", "none is needed", "")]),
        (_requests, [("wake", "ok", "3 requests held, 3 in all", "")]),
        (_no_rights, [("kubernetes", "fail", "list in models, watch in models", "give a Role")]),
        (
            _not_ready,
            [("keda", "fail", "not ready: ScaledObjectCheckFailed: failed to", "operator")],
        ),
        (_no_conditions, [("keda", "warn", "has no conditions", "operator")]),
        (_in_fallback, [("keda", "warn", "ready, fallback: FallbackExists: ex", "no effect")]),
        (_paused, [("keda", "warn", "ready, paused", "no effect")]),
        (_wrong_port, [("keda", "warn", "with other triggers than this file", "kubectl diff")]),
        (_failing, [("keda", "warn", "failing: s0-queue-depth (4 in a row)", "answers")]),
        (
            _unread_objects,
            [
                ("keda", "skipped", "not allowed", ""),
                ("hpa", "skipped", "not allowed", ""),
            ],
        ),
        (
            _no_metric,
            [("hpa", "fail", "ScalingActive is False, FailedGetExternalMetric", "metrics")],
        ),
        (_asleep, [("hpa", "ok", "disabled at zero replicas", "")]),
        (_other_hpa, [("hpa", "warn", "there is no HPA not-there", "KEDA creates it")]),
        (_warned, [("events", "warn", "Failed4 x7: no [31m metric; Failed3", "for an hour")]),
        (
            _refused,
            [
                ("trigger 0", "fail", "sevice: unknown key; did you mean service?", "--config"),
                ("trigger 0", "fail", "pollSeconds: got '0'", "correct the trigger"),
                ("answers", "fail", "INVALID_ARGUMENT", "say why"),
            ],
        ),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
async def test_what_is_wrong(break_it: Break, expected: list[tuple[str, str, str, str]]) -> None:
    """One thing is broken: the line about it says what, and what to do next."""
    async with scene() as it:
        await break_it(it)
        checks = await it.checks()
    for name, status, says, then in expected:
        check = checks[name]
        assert check.status == status, check
        assert says in check.says
        assert then in check.then
        assert bool(check.then) is (status in {"warn", "fail"})
    assert exit_code(checks.values()) == int(any(c.status == "fail" for c in checks.values()))


async def test_idle_replicas_have_to_be_woken_too() -> None:
    """KEDA goes below minReplicaCount, down to idleReplicaCount."""
    async with scene() as it:
        await _nothing_wakes(it)
        text = manifest(it.trigger, minimum=1).replace("spec:", "spec:\n  idleReplicaCount: 0")
        checks = await it.checks(scaled_object=parse_scaled_object(text))
    assert checks["wake"].status is Status.FAIL
    assert "nothing wakes it" in checks["wake"].says


async def test_not_applied_yet() -> None:
    """A ScaledObject that the cluster does not have is a warning, and the rest is checked."""
    async with scene() as it:
        text = manifest(it.trigger).replace("name: llama\n  namespace", "name: other\n  namespace")
        checks = await it.checks(scaled_object=parse_scaled_object(text))
    assert checks["keda"].status is Status.WARN
    assert "has no ScaledObject models/other" in checks["keda"].says
    assert checks["hpa"].status is Status.SKIPPED
    assert checks["families"].status is Status.OK


async def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kubeconfig what needs a cluster is skipped, and nothing fails for that."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    async with scene() as it:
        checks = await it.checks(configure=None)
    reason = f"no cluster reachable (kubeconfig {tmp_path / 'none'}: there is none)"
    names = {"kubernetes", "endpoints", "page", "engine", "families", "wake", "keda", "hpa"}
    assert {name for name, c in checks.items() if c == skipped(name, reason)} == names
    assert exit_code(checks.values()) == 0


async def test_a_cluster_that_does_not_answer() -> None:
    """An API server that is configured and not there is a failure, of all that asks it."""
    async with scene() as it:
        checks = await it.checks(configure=at_url(f"http://{NOWHERE}"))
    for name in ("kubernetes", "endpoints", "keda", "wake"):
        assert checks[name].status is Status.FAIL, name
        assert "cannot reach the Kubernetes API server" in checks[name].says


async def test_endpoints_of_the_trigger() -> None:
    """Static pages need no cluster; those that the settings do not allow are refused."""
    async with scene() as it:
        it.trigger = {"endpoints": f"{it.page.url}?token=hush"}
        checks = await it.checks()
        alone = await it.checks(settings=settings(allow_address=()))
    assert checks["endpoints"] == ok("endpoints", "1 in the trigger")
    assert checks["families"].status is Status.OK
    assert checks["kubernetes"] == ok("kubernetes", "reachable; no trigger names a Service")
    assert "--allow-address" in alone["trigger 0"].says
    assert "hush" not in str(checks)


@pytest.mark.blocks("the resolver is replaced by one that answers at once")
async def test_names_of_the_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each address is one; a name that has one which is not allowed gives no list."""
    async with scene() as it:
        it.trigger = {"endpoints": it.page.url.replace("127.0.0.1", NAME)}
        with resolving(monkeypatch, ["127.0.0.1", "127.0.0.1"]):
            known = await it.checks()
        with resolving(monkeypatch, ["127.0.0.1", "169.254.1.1"]):
            refused = await it.checks()
    assert known["endpoints"] == ok("endpoints", "1 in the trigger")
    assert known["engine"].status is Status.OK
    assert refused["endpoints"].says == f"{NAME} resolves to an address that is not allowed"
    assert "every address" in refused["endpoints"].then


async def test_several_ports() -> None:
    """All pages of a pod are one replica; the one that is not read is named by its port."""
    async with scene() as it:
        port = int(it.page.address.rpartition(":")[2])
        pod = {"addresses": ["127.0.0.1"], "targetRef": {"kind": "Pod", "name": "llama-0"}}
        ports = [{"name": "rank-0", "port": port}, {"name": "rank-1", "port": 1}]
        content = {"addressType": "IPv4", "ports": ports, "endpoints": [pod]}
        it.cluster.delete_service("models", "llama")
        it.cluster.put_slice("models", "llama", "llama-1", content)
        it.trigger = {"service": "llama", "port": "rank-0,rank-1"}
        checks = await it.checks()
    assert checks["endpoints"] == ok("endpoints", "1 of 1 ready")
    assert checks["page"].status is Status.WARN
    assert "1 not read: llama-0 port 1: cannot connect" in checks["page"].says
    assert "port 1: cannot connect" in checks["engine"].says


async def test_several_triggers() -> None:
    """Each trigger has its own lines, and the scaler is called once."""
    async with scene() as it:
        both = parse_scaled_object(manifest(it.trigger, {"service": "llama", "port": "x"}))
        checks = await it.checks(scaled_object=both)
    assert checks["endpoints [0]"].status is Status.OK
    assert checks["endpoints [1]"].status is Status.FAIL
    assert checks["wake [1]"] == skipped("wake [1]", "no wakeFrom, and none is needed")


async def test_reports() -> None:
    """Where reports are all there is, nothing can be read from here, and that is said."""
    async with scene() as it:
        it.trigger = {"engine": "reports"}
        checks = await it.checks()
    assert checks["trigger 0"].status is Status.FAIL  # these settings take none
    assert "--report-tokens" in checks["trigger 0"].says


# The scaler


@contextlib.asynccontextmanager
async def other_server() -> AsyncIterator[str]:
    """Serve gRPC with a health that drains, and a reflection that knows no external scaler."""
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection([reflection.SERVICE_NAME], server)
    name = "externalscaler.ExternalScaler"
    await servicer.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_scaler_that_is_not_there() -> None:
    """Where nobody listens the line has the address, and what hangs on it is skipped."""
    async with scene() as it:
        checks = await it.checks(address=NOWHERE)
    assert checks["scaler"].status is Status.FAIL
    assert NOWHERE in checks["scaler"].says
    assert "UNAVAILABLE" in checks["scaler"].says
    assert "--address" in checks["scaler"].then
    assert checks["reflection"] == skipped("reflection", "the scaler is not reached")
    assert checks["answers"].status is Status.FAIL
    assert checks["families"].status is Status.OK


async def test_a_name_that_is_none() -> None:
    """A Service's name does not resolve outside the cluster: the line says how to get there."""
    async with scene() as it:
        checks = await it.checks(address="scaler.invalid:6000")
    assert checks["scaler"].status is Status.FAIL
    assert "port-forward" in checks["scaler"].then


async def test_a_scaler_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that accepts and never answers ends with its time."""
    monkeypatch.setattr(calling, "CALL_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        async with scene() as it:
            checks = await it.checks(scaled_object=None, address=f"127.0.0.1:{port}")
    assert checks["scaler"].says == f"127.0.0.1:{port} (plain text): no answer within 0.3 s"


async def test_a_server_that_is_another() -> None:
    """A health that is not SERVING fails, and so does a server that is no external scaler."""
    async with scene() as it, other_server() as address:
        checks = await it.checks(address=address)
    assert checks["scaler"].status is Status.OK
    assert checks["health"] == fail("health", "NOT_SERVING", checks["health"].then)
    assert checks["reflection"].status is Status.FAIL
    assert checks["answers"].status is Status.FAIL


async def test_a_scaler_without_health_and_reflection() -> None:
    """Somebody else's scaler may have neither: a warning, because KEDA asks for neither."""
    async with scene() as it, serving(ScriptedScaler()) as address:
        checks = await it.checks(address=address)
    assert checks["health"].status is Status.WARN
    assert checks["reflection"].status is Status.WARN
    assert checks["answers"].status is Status.OK


@pytest.mark.parametrize(
    ("scaler", "status"),
    [
        (ScriptedScaler(metrics_script=[values()]), Status.WARN),
        (
            ScriptedScaler(active_script=[Refusal(grpc.StatusCode.UNAVAILABLE, "no reading")]),
            Status.FAIL,
        ),
    ],
    ids=["hold", "unknown"],
)
async def test_answers(scaler: ScriptedScaler, status: Status) -> None:
    """The hold is a warning, and no answer is a failure."""
    async with scene() as it, serving(scaler) as address:
        checks = await it.checks(address=address)
    assert checks["answers"].status is status


@pytest.mark.blocks("the certificate is read before the server serves")
async def test_tls(tmp_path: Path) -> None:
    """TLS is ok with its CA; each way to get it wrong says what is missing."""
    authority, other = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("scaler", "127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(cert))
    certificate.private_key_pem.write_to_path(str(key))
    trusted = TlsFiles(ca=authority.cert_pem.bytes())
    alone: dict[str, Any] = {"scaled_object": None}
    async with scene(tls_cert=cert, tls_key=key) as it:
        good = await it.checks(tls=trusted)
        as_listening = await it.checks(**alone, tls=trusted)
        wrong_ca = await it.checks(**alone, tls=TlsFiles(ca=other.cert_pem.bytes()))
        plain_text = await it.checks(**alone, settings=settings())
    async with scene() as it:
        no_tls = await it.checks(**alone, tls=trusted)
    assert good["scaler"].says.endswith("answers (TLS, certificate accepted)")
    assert good["answers"].status is Status.OK
    assert as_listening["scaler"].status is Status.OK
    for checks, hint in (
        (wrong_ca, "--ca-file"),
        (plain_text, "enableTLS"),
        (no_tls, "--tls-cert"),
    ):
        assert checks["scaler"].status is Status.FAIL
        assert hint in checks["scaler"].then, checks["scaler"]


# Prometheus


async def test_prometheus(tmp_path: Path) -> None:
    """A real one: fresh, with its replicas; and what it says when it is not there or has none."""
    prometheus = await asyncio.to_thread(PrometheusProcess, tmp_path)
    try:
        async with scene() as it:
            prometheus.scrape("pods", "models", {it.page.address: "llama-0"})
            await asyncio.to_thread(prometheus.wait_scraped)
            it.trigger = {"serverAddress": prometheus.url}
            good = await it.checks()
            renamed = await it.checks(
                scaled_object=parse_scaled_object(
                    manifest({**it.trigger, "engine": "sglang"}).replace("models", "others")
                )
            )
            own, empty = [
                await it.checks(
                    scaled_object=parse_scaled_object(
                        manifest({**it.trigger, **OWN, "concurrencyQuery": query}, minimum=1)
                    )
                )
                for query in ("sum by (pod) (vllm:num_requests_running)", "no_such_series")
            ]
            named = {"main": {"url": prometheus.url}, "gone": {"url": f"http://{NOWHERE}"}}
            alone = await it.checks(scaled_object=None, settings=settings(prometheus=named))
    finally:
        await asyncio.to_thread(prometheus.stop)
    assert good["prometheus"].status is Status.OK
    assert "its newest sample is" in good["prometheus"].says
    assert good["engine"] == ok("engine", "vllm")
    assert "vllm:num_requests_waiting" in good["families"].says
    assert renamed["engine"].status is Status.FAIL
    assert renamed["engine"].says == "no series of sglang within a week"
    assert own["engine"] == skipped("engine", "own queries are read, whatever the engine is")
    assert own["families"] == ok("families", "concurrencyQuery")
    assert empty["families"].status is Status.FAIL
    assert empty["families"].says == ("concurrencyQuery gives no series of it (for concurrency)")
    assert "own-queries" in empty["families"].then
    assert alone["prometheus main"].status is Status.OK
    assert alone["prometheus gone"].status is Status.FAIL
    assert alone["ScaledObject"].status is Status.SKIPPED


async def test_a_prometheus_whose_samples_are_old() -> None:
    """One that answers and scrapes no more proves nothing: it fails."""
    async with scene() as it, FakePrometheus() as fake:
        fake.scraped_ago = 60
        it.trigger = {"serverAddress": fake.url.replace("localhost", "127.0.0.1")}
        checks = await it.checks()
    assert checks["prometheus"].status is Status.FAIL
    assert "older than staleSeconds (15)" in checks["prometheus"].says


async def test_a_prometheus_that_is_not_there() -> None:
    """What is read through it is skipped."""
    async with scene() as it:
        it.trigger = {"serverAddress": f"http://{NOWHERE}"}
        checks = await it.checks()
    assert checks["prometheus"].status is Status.FAIL
    assert "credentials" in checks["prometheus"].then
    assert checks["families"] == skipped("families", "Prometheus cannot be used")


# Time, and words


async def test_a_check_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever hangs, the doctor ends and says so."""
    monkeypatch.setattr(examining, "CHECK_SECONDS", 0.5)
    async with scene() as it:
        it.page.hangs.set()
        checks = await it.checks()
    assert list(checks)[-1] == "time"
    assert checks["time"].status is Status.FAIL
    assert exit_code(checks.values()) == 1


async def test_a_page_that_hangs(it_hangs: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, and the families of the others are told."""
    monkeypatch.setattr(pages, "PAGE_SECONDS", 0.5)
    async with scene() as it:
        port = int(it.page.address.rpartition(":")[2])
        hanging = int(it_hangs.address.rpartition(":")[2])
        it.cluster.put_service(
            "models",
            "llama",
            [
                SimulatedEndpoint("127.0.0.1", "llama-0", port),
                SimulatedEndpoint("127.0.0.1", "llama-1", hanging),
            ],
        )
        checks = await it.checks()
    assert "1 not read: llama-1: no answer within 0.5 s" in checks["page"].says
    assert checks["engine"].status is Status.OK


@pytest.fixture
async def it_hangs() -> AsyncIterator[Page]:
    """Serve a page that never comes."""
    page = Page("")
    await page.start()
    page.hangs.set()
    yield page
    await page.stop()


def test_only_a_failure_fails() -> None:
    """Warnings and what was skipped leave the exit code at 0."""
    assert exit_code([ok("a", ""), warn("b", "", "x"), skipped("c", "")]) == 0
    assert exit_code([ok("a", ""), fail("b", "", "x")]) == 1


def test_foreign_words_are_harmless() -> None:
    """No text steers a terminal or fills it."""
    assert plain("a\x1b[2J\nb\u202ec") == "a [2J b c"
    assert len(plain("x" * 10_000)) == 400
    assert Check("a", Status.OK, "b").to_json() == {"check": "a", "status": "ok", "says": "b"}


def test_nearest() -> None:
    """The likest names come first, parts of a histogram once, and unlike ones not at all."""
    page = ["vllm_num_requests_waiting", "python_gc_objects", "vllm_ttft_bucket", "vllm_ttft_sum"]
    assert nearest(["vllm:num_requests_waiting"], page) == ["vllm_num_requests_waiting"]
    assert nearest(["vllm:ttft_bucket"], page) == ["vllm_ttft"]
    assert nearest(["sglang:token_usage"], page) == []

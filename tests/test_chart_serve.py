"""The chart, as it runs: what it renders is taken by the real command line, settings and scaler."""

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import typer

from chart_helm import Document, Rendered, names, render
from keda_scaler import cli
from keda_scaler.app import App
from keda_scaler.exporter.command import exporter_command
from keda_scaler.keda.scaledobject import parse_scaled_object
from keda_scaler.settings import PrometheusSettings, Settings, load_settings
from keda_scaler.sim.kubernetes import SimulatedCluster
from keda_scaler.sources.apiserver import at_url
from keda_scaler.sources.kubernetes import ServiceDirectory
from metrics_page import Page, capture
from prometheus_server import PrometheusProcess

MOUNTS = "/etc/keda-scaler"
HOST = "keda-scaler.keda.svc.cluster.local"


def parsed(
    application: typer.Typer, arguments: list[str], command: str = "serve"
) -> dict[str, Any]:
    """Parse a command line as the command does; an unknown flag raises."""
    group: Any = typer.main.get_command(application)
    found = group.commands[command] if hasattr(group, "commands") else group
    params: dict[str, Any] = found.make_context(command, list(arguments)).params
    return params


def settings_of(found: Rendered, folder: Path) -> Settings:
    """Load what a pod would start with, its mounts below this folder."""
    command, *flags = [argument.replace(MOUNTS, str(folder)) for argument in found.arguments]
    assert command == "serve"
    given = parsed(cli.app, flags)
    config = Path(given.pop("config"))
    assert config == folder / "settings" / "settings.toml"
    config.parent.mkdir()
    config.write_text(found.settings.replace(MOUNTS, str(folder)))
    return load_settings(given, config)


def mounted(pod: Document) -> set[str]:
    """Give every file of Secrets that a pod's containers see."""
    files = set()
    for volume in pod["volumes"]:
        for source in volume.get("projected", {"sources": []})["sources"]:
            files |= {f"{MOUNTS}/{volume['name']}/{i['path']}" for i in source["secret"]["items"]}
    return files


@pytest.mark.parametrize("name", names())
def test_the_scaler_takes_it(name: str, tmp_path: Path) -> None:
    """Every flag and every key of every feature, on the ports of the pod."""
    found = render(name)

    settings = settings_of(found, tmp_path)

    assert settings.http_address.endswith(":8080")
    assert settings.grpc_address.endswith(":6000")
    assert not settings.http_address.startswith("127."), "the kubelet comes from outside"


@pytest.mark.parametrize("name", names())
def test_every_secret_that_is_named_is_mounted(name: str) -> None:
    """Whole folders and not single files, which Kubernetes would never change; and no file more."""
    found = render(name)
    text = " ".join(found.arguments) + found.settings
    named = set(re.findall(rf"{MOUNTS}/secrets/[\w./-]+", text))

    assert named == mounted(found.pod)
    mounts = found.pod["containers"][0]["volumeMounts"]
    assert not any("subPath" in mount for mount in mounts)
    assert len([m for m in mounts if m["mountPath"] == f"{MOUNTS}/secrets"]) == bool(named)


def test_a_prometheus_and_its_credentials(tmp_path: Path) -> None:
    """Token, login and certificates arrive as files, under the names of the values."""
    settings = settings_of(render("prometheus"), tmp_path)
    folder = tmp_path / "secrets" / "prometheus"

    main, mutual, plain, tenant = (server for _, server in sorted(settings.prometheus.items()))
    assert main.url == "https://prometheus.monitoring.svc.cluster.local:9090"
    assert main.bearer_token_file == folder / "main" / "token"
    assert main.ca_file == folder / "main" / "ca.crt"
    assert (tenant.username, tenant.password_file) == ("scaler", folder / "tenant-2" / "password")
    assert (mutual.cert_file, mutual.key_file) == (
        folder / "mutual" / "tls.crt",
        folder / "mutual" / "tls.key",
    )
    assert (plain.bearer_token_file, plain.username, plain.ca_file) == (None, None, None)
    assert settings.allow_address == ("10.1.0.0/16", "vllm.example.com")
    assert settings.defaults == {"targetQueueDepth": "8", "pollSeconds": "2", "onUnknown": "error"}


def test_reports_and_tls(tmp_path: Path) -> None:
    """Files of Secrets behind the flags, and Redis without its password in sight."""
    redis = settings_of(render("reports-redis"), tmp_path)
    assert redis.redis_url == "rediss://scaler@valkey.data.svc.cluster.local:6379/0"
    assert redis.report_tokens == tmp_path / "secrets" / "report-tokens"
    assert redis.redis_password_file == tmp_path / "secrets" / "redis" / "password"
    (tmp_path / "mutual").mkdir()
    tls = settings_of(render("mutual-tls"), tmp_path / "mutual").tls
    assert tls
    assert tls.client_ca == tmp_path / "mutual" / "secrets" / "tls" / "client-ca.crt"


def test_who_may_see_targets(tmp_path: Path) -> None:
    """Those with a token of a Secret; everyone only where that is said."""
    tokens = settings_of(render("http-tokens"), tmp_path)
    assert tokens.http_tokens == tmp_path / "secrets" / "http-tokens"
    (tmp_path / "open").mkdir()
    assert settings_of(render("extras"), tmp_path / "open").http_open
    (tmp_path / "closed").mkdir()
    closed = settings_of(render("default"), tmp_path / "closed")
    assert (closed.http_tokens, closed.http_open) == (None, False)


def test_what_the_chart_has_no_value_for(tmp_path: Path) -> None:
    """extraArgs are flags like the others; the rest arrives in the pod."""
    found = render("extras")
    (container,) = found.pod["containers"]

    settings = settings_of(found, tmp_path)

    assert settings.demo
    assert settings.grpc_address == "[::]:6000"
    assert settings.max_connection_age_seconds == 0
    assert container["env"] == [{"name": "GRPC_VERBOSITY", "value": "ERROR"}]
    assert {"name": "more", "mountPath": "/more"} in container["volumeMounts"]
    assert any(volume["name"] == "more" for volume in found.pod["volumes"])


@pytest.mark.parametrize("name", ["exporter", "exporter-nobody"])
def test_the_exporter_takes_it(name: str) -> None:
    """Its flags are those of the command, on the port that is scraped."""
    pod = render(name).one("DaemonSet")["spec"]["template"]["spec"]
    command, *flags = pod["containers"][0]["args"]
    application = typer.Typer()
    application.command("exporter")(exporter_command)

    given = parsed(application, flags, "exporter")

    assert command == "exporter"
    assert given["gpu"] is True
    assert given["listen"].endswith(f":{pod['containers'][0]['ports'][0]['containerPort']}")
    assert str(given["pod_resources"]).startswith("/var/lib/kubelet/pod-resources/")


# helm test


async def run_test(found: Rendered, folder: Path, port: int) -> list[tuple[int | None, str]]:
    """Run the containers of the test one after the other, as the Job would, at a port of ours."""
    config = found.one("ConfigMap", "-test")["data"]
    (folder / "test").mkdir()
    for name, content in config.items():
        (folder / "test" / name).write_text(content)
    job = found.one("Job")["spec"]["template"]["spec"]
    outcomes = []
    for container in [*job.get("initContainers", []), *job["containers"]]:
        command = [*container.get("command", ["keda-scaler"]), *container["args"]]
        command = [part.replace(MOUNTS, str(folder)) for part in command]
        if command[0] == "python":
            command[2] = command[2].replace(f"{HOST}:6000", f"127.0.0.1:{port}")
        else:
            command += ["--address", f"127.0.0.1:{port}"]
        command[0] = str(Path(sys.executable).with_name(command[0]))
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=folder
        )
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
        outcomes.append((process.returncode, out.decode()))
    return outcomes


@asynccontextmanager
async def serving(settings: Settings, cluster: SimulatedCluster | None) -> AsyncIterator[int]:
    """Run the scaler in this process, at any port of loopback."""
    anywhere = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    directory = ServiceDirectory(configure=at_url(cluster.url)) if cluster else None
    async with App(settings.model_copy(update=anywhere), directory) as app:
        yield app.grpc_port


@pytest.mark.blocks("the settings and certificates are read at start")
async def test_helm_test_over_mutual_tls(tmp_path: Path) -> None:
    """Health, and a Service without a pod is idle: the API server answered, the host name fits."""
    found = render("mutual-tls")
    authority, clients = trustme.CA(), trustme.CA()
    server, client = authority.issue_cert(HOST, "127.0.0.1"), clients.issue_cert("keda")
    for folder, issued in ((tmp_path / "secrets" / "tls", server), (tmp_path / "tls", client)):
        folder.mkdir(parents=True)
        issued.private_key_pem.write_to_path(folder / "tls.key")
        issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    clients.cert_pem.write_to_path(tmp_path / "secrets" / "tls" / "client-ca.crt")
    authority.cert_pem.write_to_path(tmp_path / "tls" / "ca.crt")
    job = found.one("Job")["spec"]["template"]["spec"]
    assert mounted(job) == {f"{MOUNTS}/tls/{name}" for name in ("ca.crt", "tls.crt", "tls.key")}

    settings = settings_of(found, tmp_path)
    service = found.one("Service", "-test")["metadata"]
    async with SimulatedCluster() as cluster, serving(settings, cluster) as port:
        cluster.put_service(service["namespace"], service["name"], [])
        health, probe = await run_test(found, tmp_path, port)
        shutil.rmtree(tmp_path / "test")
        (tmp_path / "tls" / "tls.crt").unlink()
        (tmp_path / "tls" / "tls.key").unlink()
        without, *_ = await run_test(found, tmp_path, port)

    assert health == (0, f"127.0.0.1:{port}: SERVING\n")
    assert probe[0] == 0, probe
    assert "ScaledObject models/keda-scaler-test: idle" in probe[1]
    assert without[0] == 1
    assert "UNAVAILABLE" in without[1]


@pytest.mark.xdist_group("prometheus")
@pytest.mark.blocks("the settings are read at start")
async def test_helm_test_through_prometheus(tmp_path: Path) -> None:
    """A Prometheus that answers: of a model that never ran only a request for it is known."""
    found = render("prometheus")
    settings = settings_of(found, tmp_path)
    page = Page(capture("idle-fresh"))
    await page.start()
    prometheus = await asyncio.to_thread(PrometheusProcess, tmp_path)
    try:
        prometheus.scrape("pods", "keda", {page.address: "other"})
        await asyncio.to_thread(prometheus.wait_scraped)
        main = {"main": PrometheusSettings(url=prometheus.url)}
        async with serving(settings.model_copy(update={"prometheus": main}), None) as port:
            outcomes = await run_test(found, tmp_path, port)
    finally:
        await asyncio.to_thread(prometheus.stop)
        await page.stop()

    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert "ScaledObject keda/keda-scaler-test: active" in outcomes[1][1]


@pytest.mark.blocks("the settings are read at start")
async def test_helm_test_without_anything_to_read(tmp_path: Path) -> None:
    """Health alone, which says so when the scaler is not there."""
    found = render("default")
    async with serving(settings_of(found, tmp_path), None) as port:
        outcomes = await run_test(found, tmp_path, port)
    assert outcomes == [(0, f"127.0.0.1:{port}: SERVING\n")]

    shutil.rmtree(tmp_path / "test")
    ((code, said),) = await run_test(found, tmp_path, port)
    assert (code, said[:40]) == (1, f"127.0.0.1:{port}: UNAVAILABLE: failed to connect"[:40])


@pytest.mark.parametrize("name", names())
def test_the_probe_of_helm_test_is_one_of_keda(name: str) -> None:
    """Where the scaler may read something; as a ScaledObject that KEDA would take."""
    for config in render(name).all("ConfigMap"):
        if "scaledobject.yaml" in config["data"]:
            (trigger,) = parse_scaled_object(config["data"]["scaledobject.yaml"]).triggers
            assert trigger.uses_tls is ("tls" in name)
            assert trigger.address
            assert trigger.address.endswith(":6000")

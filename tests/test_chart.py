"""The chart, as the real Helm renders it: valid, least in rights, and documented."""

import json
import re
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml

from chart_helm import CHART, CI, Rendered, helm, names, render, rendered
from keda_scaler import __version__
from keda_scaler.rpc.server import DRAIN_SECONDS

OURS = {"app.kubernetes.io/name": "keda-scaler", "app.kubernetes.io/instance": "keda-scaler"}
CUSTOM = {"PodMonitor", "PrometheusRule", "Certificate"}
"""Kinds that Kubernetes itself does not have."""

OLDEST = (1, 29)


def versions() -> list[str]:
    """Give the versions of Kubernetes that the chart is for and whose schemas we have."""
    known = {version.rpartition(".")[0] for version in kubernetes_validate.utils.all_versions()}
    pairs = sorted(tuple(map(int, version.split("."))) for version in known)
    return [f"{major}.{minor}" for major, minor in pairs if (major, minor) >= OLDEST]


@pytest.fixture(autouse=True)
def _schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", _schema)


@cache
def _schema(filename: str, version: str) -> Any:
    return _read_schema(filename, version)


_read_schema = kubernetes_validate.utils.schema_contents


# Helm and Kubernetes take it


@pytest.mark.parametrize("name", names())
def test_helm_lint_is_content(name: str) -> None:
    """With warnings as errors, for each feature."""
    ran = helm("lint", "--strict", str(CHART), "--values", str(CI / f"{name}-values.yaml"))

    assert ran.returncode == 0, ran.stdout
    assert "[WARNING]" not in ran.stdout


@pytest.mark.parametrize("version", versions())
def test_every_object_is_valid(version: str) -> None:
    """Of every feature, with the strict schema of each version of Kubernetes."""
    objects = {
        json.dumps(document, sort_keys=True): document
        for name in names()
        for document in render(name).documents
        if document["kind"] not in CUSTOM
    }
    assert {document["kind"] for document in objects.values()} > {"Deployment", "NetworkPolicy"}

    for document in objects.values():
        validated = kubernetes_validate.validate(document, version, strict=True)
        assert validated == version


def test_the_versions_are_those_of_the_chart() -> None:
    """From the oldest that Chart.yaml names, without a gap."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert chart["kubeVersion"] == f">={versions()[0]}.0-0"
    assert versions() == [f"1.{minor}" for minor in range(OLDEST[1], OLDEST[1] + len(versions()))]
    assert len(versions()) >= 9


def test_the_chart_is_of_this_version() -> None:
    """The image's default tag is the version that the chart was written for."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert chart["appVersion"] == __version__
    assert render("default").pod["containers"][0]["image"] == f"keda-scaler:{__version__}"


def test_objects_of_other_operators() -> None:
    """What Kubernetes has no schema of: monitors, rules and certificates."""
    monitor = render("monitoring").one("PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert monitor["spec"]["selector"]["matchLabels"] == OURS | component("scaler")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "http", "interval": "15s", "honorLabels": True}

    exporter = render("exporter").one("PodMonitor", "-exporter")
    assert exporter["spec"]["selector"]["matchLabels"] == OURS | component("exporter")
    (endpoint,) = exporter["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "metrics", "interval": "30s", "honorLabels": True}

    rule = render("monitoring").one("PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"

    certificate = render("cert-manager").one("Certificate")["spec"]
    assert certificate["dnsNames"][0] == "keda-scaler.keda.svc.cluster.local"
    assert certificate["issuerRef"] == {
        "name": "internal",
        "kind": "ClusterIssuer",
        "group": "cert-manager.io",
    }
    assert certificate["secretName"] in json.dumps(render("cert-manager").pod["volumes"])


def test_the_dashboard_is_found_by_grafana() -> None:
    """As JSON in a ConfigMap with the label that its sidecar looks for."""
    dashboard = render("monitoring").one("ConfigMap", "-dashboard")

    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["metadata"]["annotations"] == {"grafana_folder": "Inference"}
    written = json.loads((CHART / "files" / "dashboard.json").read_text())
    assert json.loads(dashboard["data"]["keda-scaler.json"]) == written


# What runs


def component(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/component": name}


def pods(found: Rendered) -> list[dict[str, Any]]:
    """Give every pod that a rendering makes."""
    kinds = ("Deployment", "DaemonSet", "Job")
    return [document["spec"]["template"]["spec"] for kind in kinds for document in found.all(kind)]


@pytest.mark.parametrize("name", names())
def test_pods_may_do_nothing_but_run(name: str) -> None:
    """Restricted, as Kubernetes calls it; but the exporter that names pods is user 0."""
    for pod in pods(render(name)):
        reads_socket = "pod-resources" in json.dumps(pod)
        context = pod["securityContext"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert reads_socket or (context["runAsNonRoot"], context["runAsUser"]) == (True, 65532)
        assert not pod["enableServiceLinks"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]


@pytest.mark.parametrize("name", names())
def test_what_is_mounted_is_there(name: str) -> None:
    """Every mount has its volume, every volume a mount, and every port that is named is one."""
    for pod in pods(render(name)):
        containers = [*pod["containers"], *pod.get("initContainers", [])]
        mounted = {mount["name"] for c in containers for mount in c.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod.get("volumes", [])}
        for container in containers:
            ports = {port["name"] for port in container.get("ports", [])}
            probes = (container.get(f"{kind}Probe") for kind in ("liveness", "readiness"))
            assert ports >= {probe["httpGet"]["port"] for probe in probes if probe}


@pytest.mark.parametrize("release", ["v1.2", "r" * 53, "keda-scaler-of-the-platform"])
def test_any_release_has_names_that_kubernetes_takes(release: str) -> None:
    """Names of Services are names of hosts, and no label is longer than 63 characters."""
    values = ("--values", str(CI / "network-policy-values.yaml"))
    ran = helm("template", release, str(CHART), "--namespace", "keda", *values)
    assert ran.returncode == 0, ran.stderr

    for document in filter(None, yaml.safe_load_all(ran.stdout)):
        metadata = document["metadata"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"])
        assert max(len(label) for label in metadata["labels"].values()) <= 63


def test_replicas_survive_a_drain() -> None:
    """Two, on different nodes where there are some, of which one may be gone."""
    found = render("default")
    deployment = found.one("Deployment")["spec"]
    selector = {"matchLabels": OURS | component("scaler")}

    assert deployment["replicas"] == 2
    assert deployment["selector"] == selector
    budget = found.one("PodDisruptionBudget")["spec"]
    assert (budget["selector"], budget["maxUnavailable"]) == (selector, 1)
    (spread,) = found.pod["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["labelSelector"] == selector
    assert deployment["template"]["metadata"]["labels"].items() >= selector["matchLabels"].items()


def test_the_grace_is_longer_than_the_drain() -> None:
    """What the kubelet waits for is what the scaler takes, after DNS has forgotten the pod."""
    pod = render("default").pod
    (container,) = pod["containers"]
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert sleep > 0
    assert sleep + 2 * DRAIN_SECONDS < pod["terminationGracePeriodSeconds"]


def test_nothing_restarts_for_what_is_taken_up() -> None:
    """Other settings of the file leave the pod as it is."""
    before = rendered("--set-json", 'defaults={"pollSeconds": 1}')
    after = rendered("--set-json", 'defaults={"pollSeconds": 2}', "--set", "allowAddress={a}")

    assert before.settings != after.settings
    assert before.one("Deployment") == after.one("Deployment")


def test_kedas_client_sees_every_pod() -> None:
    """The Service is headless, on the port that triggers name; with an address if wanted."""
    ports = {
        port["name"]: port["port"] for port in render("default").one("Service")["spec"]["ports"]
    }
    assert ports == {"grpc": 6000, "http": 8080}
    assert render("default").one("Service")["spec"]["clusterIP"] == "None"
    assert "clusterIP" not in render("extras").one("Service")["spec"]
    for name in names():
        spec = render(name).one("Service")["spec"]
        labels = render(name).one("Deployment")["spec"]["template"]["metadata"]["labels"]
        assert labels.items() >= spec["selector"].items()


def test_where_pods_run_is_up_to_you() -> None:
    """Everything of scheduling-values.yaml arrives in the pod."""
    given = yaml.safe_load((CI / "scheduling-values.yaml").read_text())
    found = render("scheduling")
    fields = ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints")
    for field in (*fields, "priorityClassName", "imagePullSecrets"):
        assert found.pod[field] == given[field]
    metadata = found.one("Deployment")["spec"]["template"]["metadata"]
    assert metadata["annotations"] == given["podAnnotations"]
    assert metadata["labels"].items() >= given["podLabels"].items()
    assert found.one("Deployment")["metadata"]["name"] == "inference-scaler"
    image = f"{given['image']['repository']}@{given['image']['digest']}"
    assert {c["image"] for pod in pods(found) for c in pod["containers"]} == {image}


def test_the_exporter_sees_all_gpus_and_takes_none() -> None:
    """As docs/exporter.md has it; as nobody where pods need no names."""
    daemon_set = render("exporter").one("DaemonSet")["spec"]["template"]["spec"]
    (container,) = daemon_set["containers"]
    assert {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "utility"} in container["env"]
    assert "nvidia.com/gpu" not in json.dumps(container)
    assert daemon_set["runtimeClassName"] == "nvidia"
    assert daemon_set["automountServiceAccountToken"] is False
    assert daemon_set["volumes"][0]["hostPath"]["path"] == "/var/lib/kubelet/pod-resources"

    nobody = render("exporter-nobody").one("DaemonSet")["spec"]["template"]["spec"]
    assert "volumes" not in nobody
    assert nobody["securityContext"]["runAsUser"] == 65532


# Rights


RIGHTS = [
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
]


def test_nothing_may_be_done_by_default() -> None:
    """No role, no binding, and no token in the pod."""
    found = render("default")

    assert not [d for d in found.documents if "rbac" in d["apiVersion"]]
    assert found.pod["automountServiceAccountToken"] is False
    assert found.one("ServiceAccount")["automountServiceAccountToken"] is False


def test_rights_in_chosen_namespaces() -> None:
    """To list and watch EndpointSlices, there and nowhere else."""
    found = render("services")

    assert not found.all("ClusterRole")
    assert [role["metadata"]["namespace"] for role in found.all("Role")] == ["models", "research"]
    other = rendered("--values", str(CI / "services-values.yaml"), "--namespace", "staging")
    for one, theirs in zip(found.all("Role"), other.all("Role"), strict=True):
        assert one["metadata"]["name"] != theirs["metadata"]["name"], "both may be there"
    for role, binding in zip(found.all("Role"), found.all("RoleBinding"), strict=True):
        assert role["rules"] == RIGHTS
        assert binding["metadata"]["namespace"] == role["metadata"]["namespace"]
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        (subject,) = binding["subjects"]
        assert (subject["name"], subject["namespace"]) == ("keda-scaler", "keda")
    assert found.pod["serviceAccountName"] == "keda-scaler"
    assert found.pod["automountServiceAccountToken"] is True


def test_rights_everywhere() -> None:
    """One cluster role with the same, for the account that was named."""
    found = render("services-everywhere")

    assert not found.all("Role")
    assert not found.all("ServiceAccount")
    assert found.one("ClusterRole")["rules"] == RIGHTS
    (subject,) = found.one("ClusterRoleBinding")["subjects"]
    assert (subject["name"], subject["namespace"]) == ("scaler", "keda")
    assert found.pod["serviceAccountName"] == "scaler"


# Network


def of(namespace: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


def test_who_is_let_in() -> None:
    """KEDA's operator and helm test to gRPC; Prometheus and who is named to HTTP."""
    ingress = render("network-policy").one("NetworkPolicy")["spec"]["ingress"]
    by_port = {rule["ports"][0]["port"]: rule["from"] for rule in ingress}

    keda = {**of("keda"), "podSelector": {"matchLabels": {"app": "keda-operator"}}}
    test = {"podSelector": {"matchLabels": OURS | component("test")}}
    assert by_port == {"grpc": [keda, test], "http": [of("monitoring"), of("gateway")]}
    job = render("network-policy").one("Job")["spec"]["template"]["metadata"]["labels"]
    assert job == OURS | component("test")


def test_what_is_let_out() -> None:
    """DNS, the API server, pods of the namespaces that are read, Prometheus, and what is named."""
    policy = render("network-policy").one("NetworkPolicy")["spec"]
    dns, api_server, models, prometheus, redis = policy["egress"]

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert dns["to"] == [of("kube-system")]
    assert api_server == {"ports": [{"port": 443}], "to": [{"ipBlock": {"cidr": "10.96.0.1/32"}}]}
    (selector,) = models["to"][0]["namespaceSelector"]["matchExpressions"]
    assert (selector["operator"], selector["values"]) == ("In", ["models", "research"])
    assert prometheus == {"to": [of("monitoring")]}
    assert redis["ports"] == [{"port": 6379}]


def test_what_is_let_out_by_what_is_on() -> None:
    """Pods of all namespaces; no Prometheus and no HTTP where none is named."""
    found = render("network-policy-everywhere")
    policy = found.one("NetworkPolicy")["spec"]

    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == ["grpc"]
    _, api_server, models = policy["egress"]
    assert api_server == {"ports": [{"port": 443}, {"port": 6443}]}
    assert models == {"to": [{"namespaceSelector": {}}]}
    exporter = found.one("NetworkPolicy", "-exporter")["spec"]
    assert (exporter["ingress"], exporter["egress"]) == ([], [])

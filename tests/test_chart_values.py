"""The chart's values: what is refused, what is warned of, and where they are written down."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import chart_page
from chart_helm import CHART, CI, RELEASE, ROOT, helm, names, refused
from keda_scaler.settings import _default_keys

# What is refused


WRONG = {
    "imagePullPolicy=1": "'imagePullPolicy' not allowed",
    "image.tags=1": "'tags' not allowed",
    'prometheus.a={"url": "http://x", "tokens": "y"}': "'tokens' not allowed",
    'prometheus.b={"ca": {"secret": "x", "key": "y"}}': "/prometheus/b': missing property 'url'",
    'prometheus.c={"url": "http://me:password@x"}': "/prometheus/c/url'",
    'prometheus.d={"url": "http://x", "ca": {"secret": "x"}}': "/d/ca': missing property 'key'",
    'prometheus.E={"url": "http://x"}': "invalid propertyName 'E'",
    'reports.redis.url="redis://me:password@x"': "/reports/redis/url'",
    "tls.clientCA.path=1": "'path' not allowed",
    'replicaCount="2"': "/replicaCount'",
    "maxConnectionAgeSeconds=59": "/maxConnectionAgeSeconds'",
    'listenHost="127.0.0.1"': "/listenHost'",
    'image.digest="sha256:12"': "/image/digest'",
    'services.namespaces=["Models"]': "/services/namespaces/0'",
    "defaults.pollSeconds=true": "/defaults/pollSeconds'",
    "defaults.pollSecond=1": "invalid propertyName 'pollSecond'",
    'allowAddress=["http://x"]': "/allowAddress/0'",
    "podDisruptionBudget.maxUnavailable=0": "/podDisruptionBudget/maxUnavailable'",
    'networkPolicy.keda=[{"namespace": "keda"}]': "'namespace' not allowed",
    "networkPolicy.apiServerPorts=[99999]": "/networkPolicy/apiServerPorts/0'",
    "exporter.interval=0.5": "/exporter/interval'",
    "podAnnotations.x=1": "/podAnnotations/x'",
    "resources.request={}": "'request' not allowed",
}


def test_the_schema_refuses() -> None:
    """Unknown keys and wrong values, each by its place, all at once."""
    said = refused(*WRONG)

    assert not [value for value, place in WRONG.items() if place not in said], said
    assert refused('prometheus={"../x": {"url": "http://x"}}').count("'../x'")


SECRET = '{"secret": "x", "key": "y"}'


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            ['services={"namespaces": ["a"], "allNamespaces": true}'],
            "services: give namespaces or allNamespaces, not both",
        ),
        (
            ["services.allNamespaces=true", "serviceAccount.create=false"],
            "serviceAccount: services needs one of its own",
        ),
        (
            ['prometheus.a={"url": "http://x", "username": "me"}'],
            "prometheus.a: username and password go together",
        ),
        (
            [f'prometheus.a={{"url": "http://x", "password": {SECRET}}}'],
            "prometheus.a: username and password go together",
        ),
        (
            [
                'prometheus.a={"url": "http://x", "username": "me"}',
                f"prometheus.a.password={SECRET}",
                f"prometheus.a.bearerToken={SECRET}",
            ],
            "prometheus.a: give bearerToken or username, not both",
        ),
        (
            ['reports.tokens.secret="x"'],
            "2 replicas share reports through Redis alone; set reports.redis.url",
        ),
        (['reports.redis.url="redis://x"'], "set reports.tokens.secret"),
        (['reports.redis.password.secret="x"'], "reports.redis: password and ca need url"),
        (
            ['tls.secret="x"', 'tls.certManager={"enabled": true, "issuerRef": {"name": "x"}}'],
            "tls: give secret or certManager, not both",
        ),
        (['http={"tokens": {"secret": "x"}, "open": true}'], "http: give tokens or open, not both"),
        (["tls.certManager.enabled=true"], "tls.certManager: enabled needs issuerRef.name"),
        (['tls.clientCA.secret="x"'], "tls.clientCA: needs tls.secret or tls.certManager"),
        (['tls.testSecret="x"'], "tls.testSecret: only with tls.clientCA"),
    ],
)
def test_what_cannot_work_is_refused(values: list[str], said: str) -> None:
    """With what to set instead."""
    assert said in refused(*values)


def test_all_that_cannot_work_is_said_at_once() -> None:
    """One attempt is enough to know it."""
    said = refused('tls.testSecret="x"', 'reports.redis.url="redis://x"')

    assert len(re.findall(r"^- ", said, re.MULTILINE)) == 2


# What is said


def notes(*arguments: str, home: Path) -> str:
    ran = helm("install", *RELEASE, "--dry-run=client", *arguments, home=home)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.partition("\nNOTES:\n")[2]


def feature(name: str) -> tuple[str, str]:
    return "--values", str(CI / f"{name}-values.yaml")


def test_the_notes_say_how_to_prove_it(tmp_path: Path) -> None:
    """The address for triggers, and commands to copy."""
    said = notes(*feature("services"), home=tmp_path)

    assert "scalerAddress: keda-scaler.keda.svc.cluster.local:6000\n" in said
    assert "helm test keda-scaler --namespace keda" in said
    assert "grpcurl -plaintext localhost:6000 grpc.health.v1.Health/Check" in said
    assert "keda-scaler probe scaledobject.yaml --address localhost:6000\n" in said
    secured = notes(*feature("cert-manager"), home=tmp_path)
    assert 'enableTLS: "true"' in secured
    assert "-cacert ca.crt -cert client.crt" in secured
    assert "helm test keda-scaler" not in secured


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        ((), "Nothing can be read"),
        (("--set", "replicaCount=1"), "1 replica: .*; the PodDisruptionBudget keeps nothing"),
        (feature("reports"), r"1 replica: [^;]*\.\n"),
        (feature("extras"), "KEDA stays with one of 2 replicas"),
        (feature("extras"), "maxConnectionAgeSeconds is 0"),
        ((), "Everyone in the cluster may call gRPC, without a certificate, and HTTP"),
        (feature("cert-manager"), "Everyone in the cluster may call gRPC and HTTP"),
        (feature("cert-manager"), "There is no helm test"),
        (
            ("--set", "networkPolicy.enabled=true,allowAddress={a}"),
            "lets out to no address of allowAddress",
        ),
        (
            (*feature("reports-redis"), "--set", "networkPolicy.enabled=true"),
            r"lets out to no address of reports\.redis\.url",
        ),
        (
            (*feature("prometheus"), *feature("network-policy-everywhere")),
            "lets out to no Prometheus",
        ),
        (
            (*feature("reports"), "--set", "networkPolicy.enabled=true"),
            "lets in no one who reports",
        ),
        (
            (*feature("cert-manager"), *feature("reports")),
            "Reports come over plain HTTP",
        ),
        (("--set", "exporter.enabled=true"), "scrape the exporter"),
        (("--set", "monitoring.rules.enabled=true"), "The alerts need metrics"),
    ],
)
def test_the_notes_warn(arguments: tuple[str, ...], warning: str, tmp_path: Path) -> None:
    """Of what works and may not be meant."""
    said = notes(*arguments, home=tmp_path)

    assert re.search(f"^- .*{warning}", said.partition("WARNINGS\n")[2], re.MULTILINE | re.DOTALL)


def test_the_notes_warn_of_nothing_else(tmp_path: Path) -> None:
    """Where all is well there are no warnings."""
    flags = ("--set", "monitoring.podMonitor.enabled=true")

    assert "WARNING" not in notes(*feature("network-policy"), *flags, home=tmp_path)


# What is written down


def test_the_table_of_values_is_up_to_date() -> None:
    """`tools/render-chart` writes it anew. A value without a comment has no row, and fails."""
    page = chart_page.PAGE.read_text()

    assert page == chart_page.render(page), "run tools/render-chart"
    assert all(meaning.endswith((".", "`")) for _, _, meaning in chart_page.values())


def test_the_manifests_without_helm_are_up_to_date() -> None:
    """`tools/render-chart` writes them anew."""
    assert chart_page.INSTALL.read_text() == chart_page.install(), "run tools/render-chart"


def test_every_value_is_used_and_in_the_schema() -> None:
    """No value does nothing, no template uses one that is not there, and the schema knows each."""
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    schema = json.loads((CHART / "values.schema.json").read_text())
    for path, _, _ in chart_page.values():
        *folders, last = path.split(".")
        whole = rf"|toYaml \.{folders[-1]}\b" if folders else ""
        assert re.search(rf"\.{last}\b{whole}", templates), path
        node = schema
        for part in (*folders, last):
            node = node["properties"][part]
            if "$ref" in node:
                node = schema["definitions"][node["$ref"].rpartition("/")[2]]
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for used in re.findall(r"\.Values\.([\w.]+)", templates):
        node = defaults
        for part in used.split("."):
            assert part in node, used
            node = node[part]


def test_the_schema_is_strict() -> None:
    """Every object says which keys it has, or what kind of values under any key."""
    kubernetes = {"namespaceSelector", "podSelector", "ipBlock", "requests", "limits", "affinity"}
    free = {*kubernetes, "items", "global"}

    def check(node: Any, name: str) -> None:
        if not isinstance(node, dict):
            return
        if node.get("type") == "object" and name not in free:
            assert "additionalProperties" in node, name
        for key, below in node.items():
            check(below, key)

    check(json.loads((CHART / "values.schema.json").read_text()), "values")


def test_the_schema_knows_the_defaults_that_the_scaler_takes() -> None:
    """One that it does not take would be found by a pod that does not start."""
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]

    assert schema["defaults"]["propertyNames"]["enum"] == _default_keys()


def test_every_feature_says_what_it_is() -> None:
    """The first line of a values file says what it shows."""
    for name in names():
        first = (CI / f"{name}-values.yaml").read_text().splitlines()[0]
        assert re.fullmatch(r"# [A-Z].*\.", first), name


def test_links_of_the_charts_page() -> None:
    """They lead to files of the repository."""
    for link in re.findall(r"\]\(([^)]+)\)", chart_page.PAGE.read_text()):
        assert (CHART / link).resolve().is_relative_to(ROOT)
        assert (CHART / link).exists(), link


BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_values_in_the_document_are_taken(tmp_path: Path) -> None:
    """Every block of these that is no object of Kubernetes and no trigger."""
    texts = ((ROOT / "docs" / name).read_text() for name in ("install.md", "explain.md"))
    blocks = BLOCK.findall("".join(texts))
    values = [block for block in blocks if not re.match("apiVersion:|triggers:", block)]
    assert len(values) >= 7

    for number, block in enumerate(values):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        ran = helm("template", *RELEASE, "--values", str(file))
        assert ran.returncode == 0, ran.stderr

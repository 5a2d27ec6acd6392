"""Settings: where they come from, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from keda_scaler.errors import SettingsError
from keda_scaler.settings import RELOADABLE, Settings, load_settings, taken_up

FILE = """
grpc_address = "127.0.0.1:1"
allow_address = ["10.0.0.0/8"]

[prometheus.main]
url = "https://prometheus.monitoring:9090/"
bearer_token_file = "/run/secrets/token"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(FILE)
    return path


def test_defaults() -> None:
    """Nothing given: KEDA on every interface, the rest on loopback, nothing allowed."""
    settings = load_settings({})

    assert settings.grpc_address == "0.0.0.0:6000"
    assert settings.http_address == "127.0.0.1:8080"
    assert (settings.prometheus, settings.allow_address, settings.demo) == ({}, (), False)
    assert settings.tls is None
    assert (settings.max_connection_age_seconds, settings.defaults) == (3600, {})


def test_flag_over_environment_over_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest to the person who starts it wins."""
    assert load_settings({}, file).grpc_address == "127.0.0.1:1"
    monkeypatch.setenv("KEDA_SCALER_GRPC_ADDRESS", "127.0.0.1:2")
    assert load_settings({}, file).grpc_address == "127.0.0.1:2"
    assert load_settings({"grpc_address": "127.0.0.1:3"}, file).grpc_address == "127.0.0.1:3"
    assert load_settings({"grpc_address": None}, file).allow_address == ("10.0.0.0/8",)


def test_a_prometheus_and_its_credentials(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and URLs from anywhere; credentials by the name of a file, in the file only."""
    main = load_settings({}, file).prometheus["main"]
    assert main.url == "https://prometheus.monitoring:9090"
    assert main.bearer_token_file == Path("/run/secrets/token")

    monkeypatch.setenv("KEDA_SCALER_PROMETHEUS", "a=http://a:9090, b=http://b:9090")
    assert sorted(load_settings({}).prometheus) == ["a", "b"]
    flags = {"prometheus": ["c=http://c:9090/x?y=z".partition("?")[0]]}
    assert load_settings(flags).prometheus["c"].url == "http://c:9090/x"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"grpc_address": "6000"}, "grpc_address: HOST:PORT is accepted"),
        ({"http_address": "127.0.0.1:99999"}, "http_address: HOST:PORT"),
        ({"prometheus": ["main"]}, "prometheus: 'main' is not NAME=URL"),
        ({"prometheus": ["main=ftp://x"]}, "prometheus.main.url: http or https URLs"),
        ({"prometheus": ["main=http://u:p@x"]}, "without credentials"),
        ({"allow_address": ["http://x"]}, "allow_address: 'http://x' is neither"),
        ({"tls_cert": Path("x")}, "--tls-cert and --tls-key go together"),
        ({"tls_client_ca": Path("x")}, "--tls-client-ca needs --tls-cert"),
        (
            {"max_connection_age_seconds": 59},
            (
                "max_connection_age_seconds: got '59'; accepted: 0 for no limit, or whole seconds "
                "from 60 to 86400"
            ),
        ),
        ({"max_connection_age_seconds": 86401}, "max_connection_age_seconds: got '86401'"),
    ],
)
def test_what_is_wrong_is_named(flags: dict[str, Any], says: str) -> None:
    """Each problem names the setting and what is accepted."""
    with pytest.raises(SettingsError) as caught:
        load_settings(flags)

    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grpc_adress = 'x'", "grpc_adress: unknown; accepted: grpc_address"),
        ("grpc_address = ", "Invalid value"),
        (f"grpc_address = {'[' * 5000}", "settings.toml: "),
        (f"grpc_address = {'1' * 5000}", "settings.toml: "),
        ("[prometheus.main]\nurl='http://x'\nusername='u'", "username and password_file"),
        ("[prometheus.main]\nurl='http://x'\ncert_file='c'", "cert_file and key_file"),
        (
            (
                "[prometheus.main]\nurl='http://x'\nusername='u'\npassword_file='p'\n"
                "bearer_token_file='t'"
            ),
            "give bearer_token_file or username",
        ),
        ("[prometheus.main]\nurl='http://x'\ntoken='s3cret'", "prometheus.main.token"),
        ("max_connection_age_seconds = 'long'", "max_connection_age_seconds: got 'long'"),
        ("defaults = 3", "defaults: a table of the file is accepted"),
        (
            "[defaults]\ntargetQueueDept = 3",
            "defaults.targetQueueDept: unknown key; did you mean targetQueueDepth?",
        ),
        (
            "[defaults]\npollSeconds = 0.5\nonUnknown = 'sleep'",
            (
                "defaults.pollSeconds: got '0.5'; accepted: seconds from 1 to 3600; "
                "defaults.onUnknown: got 'sleep'; accepted: hold or error"
            ),
        ),
        ("[defaults]\nidleSeconds = [1]", "got '[1]'; accepted: a text or a number"),
        ("[defaults]\nidleSeconds = true", "defaults.idleSeconds: got 'True'; accepted: a text"),
        (
            "[defaults]\nstaleSeconds = 2\npollSeconds = 3",
            "defaults.staleSeconds: got 2; accepted: at least pollSeconds (3)",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    """Unknown keys fail; a secret in the file is not repeated."""
    path = tmp_path / "settings.toml"
    path.write_text(text)

    with pytest.raises(SettingsError) as caught:
        load_settings({}, path)

    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        *("engine", "service", "port", "path", "endpoints", "prometheus", "serverAddress"),
        *("selector", "model", "metricType", "wakeFrom", "wakeSelector", "scalerAddress"),
    ],
)
def test_what_belongs_to_one_trigger_is_no_default(tmp_path: Path, key: str) -> None:
    """A place, an engine or a model that every trigger had would be wrong for most."""
    path = tmp_path / "settings.toml"
    path.write_text(f"[defaults]\n{key} = 'x'\n")

    with pytest.raises(SettingsError) as caught:
        load_settings({}, path)

    said, _, accepted = str(caught.value).partition("; accepted: ")
    assert said == f"defaults.{key}: it belongs to one trigger"
    assert key not in accepted.split(", ")
    assert "targetQueueDepth" in accepted.split(", ")


def test_defaults_are_numbers_or_texts_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each arrives as a trigger would spell it; the environment has no place for a table."""
    path = tmp_path / "settings.toml"
    path.write_text(
        "[defaults]\ntargetQueueDepth = 8\ntargetGpuMemoryPressure = '70%'\npollSeconds = 2.5\n"
    )
    assert load_settings({}, path).defaults == {
        "targetQueueDepth": "8",
        "targetGpuMemoryPressure": "70%",
        "pollSeconds": "2.5",
    }

    monkeypatch.setenv("KEDA_SCALER_DEFAULTS", '{"pollSeconds": "2"}')
    with pytest.raises(SettingsError, match="defaults: a table of the file is accepted"):
        load_settings({}, path)


@pytest.mark.parametrize("age", [0, 60, 86400])
def test_an_age_of_connections(age: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off, or at least a minute; from the environment as from a flag."""
    monkeypatch.setenv("KEDA_SCALER_MAX_CONNECTION_AGE_SECONDS", str(age))

    assert load_settings({}).max_connection_age_seconds == age
    assert load_settings({"max_connection_age_seconds": 0}).max_connection_age_seconds == 0


def test_what_is_taken_up_and_what_needs_a_restart(file: Path) -> None:
    """Only what may change does; the rest is named."""
    running = load_settings({"grpc_address": "127.0.0.1:5"}, file)
    found = load_settings({"demo": True, "allow_address": ["10.1.0.0/16"]}, file)

    settings, changed, refused = taken_up(running, found)

    assert changed == ["allow_address"]
    assert refused == ["grpc_address", "demo"]
    assert settings.allow_address == ("10.1.0.0/16",)
    assert (settings.grpc_address, settings.demo) == ("127.0.0.1:5", False)
    assert settings.prometheus == running.prometheus
    assert set(RELOADABLE) <= set(Settings.model_fields)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(SettingsError, match=r"--config .*absent\.toml: No such file"):
        load_settings({}, tmp_path / "absent.toml")

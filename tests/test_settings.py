"""Settings: where they come from, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from keda_scaler.errors import SettingsError
from keda_scaler.settings import load_settings

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
        ("[prometheus.main]\nurl='http://x'\nusername='u'", "username and password_file"),
        (
            (
                "[prometheus.main]\nurl='http://x'\nusername='u'\npassword_file='p'\n"
                "bearer_token_file='t'"
            ),
            "give bearer_token_file or username",
        ),
        ("[prometheus.main]\nurl='http://x'\ntoken='s3cret'", "prometheus.main.token"),
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


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(SettingsError, match=r"--config .*absent\.toml: No such file"):
        load_settings({}, tmp_path / "absent.toml")

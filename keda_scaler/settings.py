"""The server's settings: flags over environment over file.

Every setting has the same name everywhere: flag `--grpc-address`, environment variable
`KEDA_SCALER_GRPC_ADDRESS`, key `grpc_address` in the TOML file.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from keda_scaler.core.addresses import AddressRules
from keda_scaler.core.values import parse_url
from keda_scaler.errors import SettingsError

ENVIRONMENT = "KEDA_SCALER_"


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of the server's certificate. All are read again when they change."""

    cert: Path
    key: Path
    client_ca: Path | None
    """Only clients with a certificate of this authority may call; None: any client."""


class PrometheusSettings(BaseModel):
    """A Prometheus that triggers may name. Credentials are named by file, and only in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    bearer_token_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _usable_url(cls, url: str) -> str:
        parse_url(url)
        return url.rstrip("/")

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together")
        if self.username is not None and self.bearer_token_file is not None:
            raise ValueError("give bearer_token_file or username, not both")
        return self


def _named_urls(raw: Any) -> Any:
    """Read `NAME=URL` pairs, as flags and the environment spell them."""
    if isinstance(raw, str):
        raw = [entry for entry in raw.split(",") if entry.strip()]
    if not isinstance(raw, list | tuple):
        return raw
    servers: dict[str, dict[str, str]] = {}
    for entry in raw:
        name, given, url = str(entry).partition("=")
        if not given or not name.strip():
            raise ValueError(f"{entry!r} is not NAME=URL")
        servers[name.strip()] = {"url": url.strip()}
    return servers


def _entries(raw: Any) -> Any:
    return (
        [part.strip() for part in raw.split(",") if part.strip()] if isinstance(raw, str) else raw
    )


def _address(raw: Any) -> Any:
    host, colon, port = str(raw).rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("HOST:PORT is accepted, such as 0.0.0.0:6000 or [::]:6000")
    return raw


class Settings(BaseSettings):
    """How the server runs. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT, extra="forbid", frozen=True, env_ignore_empty=True
    )

    grpc_address: Annotated[str, BeforeValidator(_address)] = "0.0.0.0:6000"
    """Where KEDA calls."""

    http_address: Annotated[str, BeforeValidator(_address)] = "127.0.0.1:8080"
    """Metrics and health."""

    prometheus: Annotated[dict[str, PrometheusSettings], NoDecode, BeforeValidator(_named_urls)] = (
        Field(default_factory=dict)
    )
    """Prometheus servers that triggers may name."""

    allow_address: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_entries)] = ()
    """What `endpoints` and `serverAddress` of a trigger may point at."""

    demo: bool = False
    """Also run the embedded simulated engine and allow its address."""

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None

    @field_validator("allow_address")
    @classmethod
    def _usable_addresses(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        AddressRules.parse(entries)
        return entries

    @model_validator(mode="after")
    def _complete_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("--tls-client-ca needs --tls-cert and --tls-key")
        return self

    @property
    def tls(self) -> Tls | None:
        """Certificate files; None: plaintext."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return Tls(self.tls_cert, self.tls_key, self.tls_client_ca)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic-settings names them
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags and environment; `load_settings` puts the file below them."""
        return init_settings, env_settings


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Load the settings. Flags that were not given are absent from `flags`, or None.

    Raises:
        SettingsError: with every problem.

    """
    given = {name: value for name, value in flags.items() if value not in (None, (), [])}
    in_file = _read_file(config) if config else {}
    in_environment = {
        name for name in Settings.model_fields if os.environ.get(ENVIRONMENT + name.upper())
    }
    below = {name: value for name, value in in_file.items() if name not in in_environment}
    try:
        return Settings(**(below | given))
    except ValidationError as error:
        raise SettingsError("; ".join(_problem(problem) for problem in error.errors())) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path}: {error}") from error


def _problem(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        text = f"unknown; accepted: {', '.join(Settings.model_fields)}"
    return f"{place}: {text}" if place else str(text)

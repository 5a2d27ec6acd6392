"""The server's settings: flags over environment over file.

Every setting has the same name everywhere: flag `--grpc-address`, environment variable
`KEDA_SCALER_GRPC_ADDRESS`, key `grpc_address` in the TOML file. Those of `FILE_ONLY` are tables of
the file and nothing else.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

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
from keda_scaler.core.trigger import KEDA_KEYS, Accepts, Trigger, parse_trigger
from keda_scaler.core.values import SHOWN, parse_server_address, shown
from keda_scaler.errors import SettingsError, TriggerError

ENVIRONMENT = "KEDA_SCALER_"

FILE_ONLY = frozenset({"defaults"})
"""Settings without a flag and a variable."""

RELOADABLE = ("prometheus", "allow_address", "defaults")
"""Settings that are taken up while the server runs. The others need a restart."""

MAX_CONNECTION_AGE_SECONDS = 86400
"""Highest `max_connection_age_seconds`: a new scaler waits no longer for its share of the calls."""

_KEYS = Trigger.keys()

_OF_ONE_TRIGGER = frozenset(
    {
        *("engine", "service", "port", "path", "endpoints", "prometheus", "serverAddress"),
        *("selector", "model", "metricType"),
        *(key for key in _KEYS if key.startswith("wake") or key.endswith("Query")),
    }
)
"""Keys that say what one trigger is about, or that must equal something beside it."""


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
    cert_file: Path | None = None
    key_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _usable_url(cls, url: str) -> str:
        return parse_server_address(url)

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together")
        if self.username is not None and self.bearer_token_file is not None:
            raise ValueError("give bearer_token_file or username, not both")
        return self

    @model_validator(mode="after")
    def _whole_certificate(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
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
            raise ValueError(f"{shown(entry)!r} is not NAME=URL")
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


def _trigger_defaults(raw: Any) -> dict[str, str]:
    """Read the table of trigger keys that a trigger which does not give them has."""
    if not isinstance(raw, dict):
        raise ValueError(  # noqa: TRY004  # pydantic takes no TypeError
            "a table of the file is accepted, with trigger keys and their values"
        )
    wrong = [
        f"defaults.{key}: got {str(value)[:SHOWN]!r}; accepted: a text or a number"
        for key, value in raw.items()
        if isinstance(value, bool) or not isinstance(value, str | int | float)
    ]
    wrong += [
        f"defaults.{key}: it belongs to one trigger; accepted: {', '.join(_default_keys())}"
        for key in sorted(raw.keys() & (_OF_ONE_TRIGGER | KEDA_KEYS))
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
    defaults = {key: str(value) for key, value in raw.items()}
    try:
        parse_trigger({"service": "any"}, Accepts(defaults=defaults))
    except TriggerError as error:
        raise ValueError("; ".join(f"defaults.{problem}" for problem in error.problems)) from None
    return defaults


def _default_keys() -> list[str]:
    return [key for key in _KEYS if key not in _OF_ONE_TRIGGER]


def _connection_age(raw: Any) -> int:
    try:
        age = int(str(raw))
    except ValueError:
        age = -1
    if age and not 60 <= age <= MAX_CONNECTION_AGE_SECONDS:
        raise ValueError(
            f"got {str(raw)[:SHOWN]!r}; accepted: 0 for no limit, or whole seconds from 60 to "
            f"{MAX_CONNECTION_AGE_SECONDS}"
        )
    return age


def _redis_url(raw: Any) -> str:
    try:
        url = urlsplit(str(raw))
        database = url.path.removeprefix("/")
        usable = url.scheme in {"redis", "rediss"} and url.hostname and url.port != 0
        usable = usable and (not database or database.isdecimal()) and url.password is None
    except ValueError:
        usable = False
    if not usable or url.query or url.fragment:  # what was given may hold a password
        raise ValueError(
            "redis://HOST:PORT/DATABASE or rediss:// is accepted, without a password: that belongs "
            "in --redis-password-file"
        )
    return str(raw)


class Settings(BaseSettings):
    """How the server runs. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT, extra="forbid", frozen=True, env_ignore_empty=True
    )

    grpc_address: Annotated[str, BeforeValidator(_address)] = "0.0.0.0:6000"
    """Where KEDA calls."""

    http_address: Annotated[str, BeforeValidator(_address)] = "127.0.0.1:8080"
    """Metrics, health, reports, and the targets for people and programs."""

    http_tokens: Path | None = None
    """File with the tokens of those who may see targets, by namespace; None: whoever reaches the
    loopback address may."""

    http_open: bool = False
    """Show targets to whoever reaches the HTTP address."""

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

    max_connection_age_seconds: Annotated[int, BeforeValidator(_connection_age)] = 3600
    """After how long KEDA is asked to connect anew, in seconds; 0: never. Only then does it look up
    the scaler's address again, and so finds a replica of the scaler that is new."""

    report_tokens: Path | None = None
    """File with the bearer tokens of those who may report; None: nobody may."""

    redis_url: Annotated[str, BeforeValidator(_redis_url)] | None = None
    """Redis or Valkey, where several scalers share reports; None: in memory, for one alone."""

    redis_password_file: Path | None = None
    redis_ca_file: Path | None = None

    defaults: Annotated[dict[str, str], NoDecode, BeforeValidator(_trigger_defaults)] = Field(
        default_factory=dict
    )
    """Trigger keys that a trigger which does not give them has all the same."""

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

    @model_validator(mode="after")
    def _open_or_not(self) -> Self:
        if self.http_open and self.http_tokens is not None:
            raise ValueError("give --http-tokens or --http-open, not both")
        return self

    @model_validator(mode="after")
    def _complete_redis(self) -> Self:
        if self.redis_url is not None and self.report_tokens is None:
            raise ValueError("--redis-url needs --report-tokens: only reports are kept there")
        if self.redis_url is None and (self.redis_password_file or self.redis_ca_file):
            raise ValueError("--redis-password-file and --redis-ca-file need --redis-url")
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


def load_settings(
    flags: Mapping[str, Any], config: Path | None = None, content: bytes | None = None
) -> Settings:
    """Load the settings. Flags that were not given are absent from `flags`, or None.

    `content` is what the file holds; None: it is read.

    Raises:
        SettingsError: with every problem.

    """
    given = _given(flags)
    in_file = _read_file(config, content) if config else {}
    below = {name: value for name, value in in_file.items() if name not in _in_environment()}
    try:
        return Settings(**(below | given))
    except ValidationError as error:
        raise SettingsError("; ".join(_problem(problem) for problem in error.errors())) from None


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value not in (None, (), [])}


def _in_environment() -> set[str]:
    return {name for name in Settings.model_fields if os.environ.get(ENVIRONMENT + name.upper())}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where settings came from, so that they can be read again."""

    flags: Mapping[str, Any]
    config: Path | None

    def load(self, content: bytes | None = None) -> Settings:
        """Load the settings; see `load_settings`."""
        return load_settings(self.flags, self.config, content)

    def of_each(self) -> dict[str, str]:
        """Say of each setting where it comes from: flag, environment, file or default.

        Raises:
            SettingsError: when the file cannot be read.

        """
        places = {
            "file": _read_file(self.config).keys() if self.config else (),
            "environment": _in_environment(),
            "flag": _given(self.flags),
        }
        found = dict.fromkeys(Settings.model_fields, "default")
        for place, names in places.items():  # a later one wins
            found |= dict.fromkeys(names, place)
        return found

    def content(self) -> bytes | None:
        """Read what the file holds; None: there is none, or it cannot be read."""
        try:
            return self.config.read_bytes() if self.config else None
        except OSError:
            return None


def taken_up(running: Settings, found: Settings) -> tuple[Settings, list[str], list[str]]:
    """Take what may change while the server runs out of settings that were read again.

    Gives the new settings, the names of those that changed, and of those that need a restart.
    """
    different = [
        name for name in Settings.model_fields if getattr(found, name) != getattr(running, name)
    ]
    changed = [name for name in different if name in RELOADABLE]
    settings = running.model_copy(update={name: getattr(found, name) for name in changed})
    return settings, changed, [name for name in different if name not in RELOADABLE]


def _read_file(path: Path, content: bytes | None = None) -> dict[str, Any]:
    try:
        return tomllib.loads((path.read_bytes() if content is None else content).decode())
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML, of its numbers, of how deep it nests
        raise SettingsError(f"--config {path}: {error}") from error


def _problem(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ")
    if text.startswith(f"{place}."):
        return str(text)  # it names the keys below this place itself
    if problem["type"] == "extra_forbidden":
        text = f"unknown; accepted: {', '.join(Settings.model_fields)}"
    return f"{place}: {text}" if place else str(text)

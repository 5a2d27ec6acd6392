"""Who may see targets: loopback, a token, or everybody if the settings say so."""

import asyncio
from base64 import b64encode
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keda_scaler.app import App
from keda_scaler.errors import SettingsError
from keda_scaler.settings import load_settings
from keda_scaler.web.access import Access
from keda_scaler.web.tokens import Tokens
from shown_targets import get, showing

SHOWN = ("/", "/targets", "/targets/models/llama", "/ui/models/llama")
MODELS = "models-0123456789abcdef"
ALL = "all-0123456789abcdef"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"models {MODELS}\n* {ALL}\n")
    return path


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
async def test_loopback_needs_no_token(address: str) -> None:
    """Whoever is on the machine, or forwards the port, may look."""
    async with showing(Access(address)) as shown:
        shown.target()
        for path in SHOWN:
            await get(shown.url + path)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "scaler:1"])
async def test_elsewhere_nobody_may_look_and_is_told_which_setting_to_set(address: str) -> None:
    """Until somebody says so; what holds nothing of a target is open."""
    async with showing(Access(address)) as shown:
        shown.target()
        for path in SHOWN:
            text, _ = await get(shown.url + path, 403)
            assert "--http-tokens FILE" in text
            assert "--http-open" in text
            assert "llama" not in text
        for path in ("/metrics", "/healthz", "/readyz", "/page.css", "/page.js"):
            await get(shown.url + path)
    async with showing(Access(address, is_open=True)) as shown:
        await get(shown.url + "/targets")


async def test_a_token_is_taken_from_programs_and_browsers(file: Path) -> None:
    """As a bearer token, or as the password of any user; on loopback too, once there are tokens."""
    tokens = await asyncio.to_thread(Tokens, file, setting="--http-tokens")
    async with showing(Access("127.0.0.1:0", tokens)) as shown:
        shown.target()
        for path in SHOWN:
            await get(shown.url + path, headers=bearer(ALL))
            await get(shown.url + path, headers=basic("anybody", ALL))
        wrong = [{}, bearer("x"), basic(ALL, "x"), {"Authorization": "Basic ?"}, basic("a", "\xff")]
        for headers in [
            *wrong,
            {"Authorization": "Basic /w=="},
            {"Authorization": f"Digest {ALL}"},
        ]:
            text, answered = await get(shown.url + "/targets", 401, headers=headers)
            assert answered["WWW-Authenticate"].startswith("Basic ")
            assert "--http-tokens" in text


async def test_a_token_shows_its_namespaces_only(file: Path) -> None:
    """Neither names, nor counts, nor sources of others."""
    tokens = await asyncio.to_thread(Tokens, file, setting="--http-tokens")
    async with showing(Access("0.0.0.0:0", tokens)) as shown:
        shown.target()
        shown.target("secret", "hidden", prometheus="main")
        for path in ("/", "/targets", "/?namespace=secret"):
            text, _ = await get(shown.url + path, headers=bearer(MODELS))
            assert "hidden" not in text
            assert "Prometheus" not in text
        await get(shown.url + "/targets/secret/hidden", 404, headers=bearer(MODELS))
        await get(shown.url + "/ui/secret/hidden", 404, headers=bearer(MODELS))
        await get(shown.url + "/ui/secret/hidden", headers=bearer(ALL))


async def test_the_settings_say_who(file: Path, tmp_path: Path) -> None:
    """Flags reach the server; a file that cannot be used is said at the start, by its setting."""
    where = {"grpc_address": "127.0.0.1:0", "http_address": "0.0.0.0:0"}
    with capture_logs():
        async with App(load_settings(where)) as app:
            await get(f"http://127.0.0.1:{app.http_port}/targets", 403)
        async with App(load_settings(where | {"http_open": True})) as app:
            await get(f"http://127.0.0.1:{app.http_port}/targets")
        async with App(load_settings(where | {"http_tokens": file})) as app:
            url = f"http://127.0.0.1:{app.http_port}/targets"
            await get(url, 401)
            await get(url, headers=bearer(ALL))
            await asyncio.to_thread(file.write_text, "models another-0123456789abcdef\n")
            async with asyncio.timeout(10):
                while True:
                    try:
                        await get(url, 401, headers=bearer(ALL))
                        break
                    except AssertionError:
                        await asyncio.sleep(0.1)
        with pytest.raises(SettingsError, match=r"--http-tokens .*absent: No such file"):
            async with App(load_settings(where | {"http_tokens": tmp_path / "absent"})):
                pass


def test_open_and_tokens_contradict_each_other() -> None:
    """Nobody believes that tokens protect what is open."""
    with pytest.raises(SettingsError, match="--http-tokens or --http-open, not both"):
        load_settings({"http_open": True, "http_tokens": Path("tokens")})

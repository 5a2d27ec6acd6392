"""Bearer tokens of reporters: what a file may say, and how a changed one is taken up."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keda_scaler.errors import SettingsError
from keda_scaler.web.tokens import ANY, CHECK_SECONDS, MAX_FILE_BYTES, Tokens

ONE = "one-0123456789abcdef"
TWO = "two-0123456789abcdef"


class Clock:
    """A clock that goes on by what it takes to look at the file again."""

    now = 0.0

    def __call__(self) -> float:
        self.now += CHECK_SECONDS
        return self.now


def write(file: Path, text: str | None) -> None:
    """Write a new version; None: take the file away."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


async def read(file: Path, clock: Callable[[], float] | None = None) -> Tokens:
    return await asyncio.to_thread(Tokens, file, clock or Clock())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


async def test_a_token_speaks_for_the_namespaces_of_its_lines(file: Path) -> None:
    """Several of a namespace, several namespaces of one, comments, and all namespaces."""
    write(
        file,
        f"# who may report\n\nmodels {ONE}  # the gateway\nmodels\t{TWO}\nchat {TWO}\n"
        f"{ANY} all-0123456789abcdef==\n",
    )
    tokens = await read(file)

    assert await tokens.namespaces(ONE) == {"models"}
    assert await tokens.namespaces(TWO) == {"models", "chat"}
    assert await tokens.namespaces("all-0123456789abcdef==") == {ANY}
    for unknown in ("", ONE[:-1], f"{ONE}x", ONE.upper(), "\udc80" * 20):
        assert await tokens.namespaces(unknown) == frozenset()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models short", "line 1 is not NAMESPACE TOKEN"),
        (f"models {ONE}\n{ONE}", "line 2 is not"),
        (f"Models {ONE}", "line 1 is not"),
        (f"models {ONE} more", "line 1 is not"),
        ("models s3cret-s3cret-s3cret!", "line 1 is not"),
        ("# nothing\n", "no token in it"),
        ("x" * (MAX_FILE_BYTES + 1), "over 1048576 bytes"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(file: Path, text: str | None, says: str) -> None:
    """The error names the setting and the line, and repeats no secret."""
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        Tokens(file)

    assert str(caught.value).startswith(f"--report-tokens {file}: ")
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """Mount a file as kubelet does, with a second version beside the first."""
    for version, token in (("v1", ONE), ("v2", TWO)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "tokens").write_text(f"models {token}\n")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "tokens").symlink_to("..data/tokens")
    return tmp_path / "tokens"


def swap(mounted: Path) -> None:
    new = mounted.with_name("..data_tmp")
    new.symlink_to("v2")
    new.replace(mounted.with_name("..data"))


async def test_a_file_swapped_as_kubelet_does_is_taken_up(mounted: Path) -> None:
    """A new token works and an old one ceases to, without a restart."""
    tokens = await read(mounted)
    assert await tokens.namespaces(ONE) == {"models"}
    swap(mounted)

    assert await tokens.namespaces(ONE) == frozenset()
    assert await tokens.namespaces(TWO) == {"models"}


async def test_a_broken_new_version_changes_nothing(file: Path) -> None:
    """The old tokens go on, the log says so once, and a mended version is taken up."""
    write(file, f"models {ONE}\n")
    tokens = await read(file)
    with capture_logs() as logs:
        for broken in (f"models {TWO}\nmodels", "", None):
            write(file, broken)
            for _ in range(3):
                assert await tokens.namespaces(ONE) == {"models"}
        write(file, f"models {TWO}\n")
        assert await tokens.namespaces(TWO) == {"models"}

    assert [log["taken_up"] for log in logs] == [False, False, False, True]
    assert TWO not in str(logs)


async def test_the_file_is_not_read_for_every_request(file: Path) -> None:
    """Within a second nothing is looked at: reports come often."""
    write(file, f"models {ONE}\n")
    tokens = await read(file, lambda: 0.0)
    write(file, None)
    with capture_logs() as logs:
        assert await tokens.namespaces(ONE) == {"models"}
    assert not logs

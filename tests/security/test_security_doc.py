"""docs/security.md: what it promises is tested where it says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)


def test_every_test_that_is_named_exists() -> None:
    """By its file, and by its name where one is given."""
    for file, name in NAMED:
        text = (ROOT / file).read_text()
        assert re.search(rf"def {name}\b" if name else r"def test_", text), (file, name)


def test_every_promise_has_a_test() -> None:
    """No row of the table is without one."""
    table = TEXT.partition("<!-- promises -->")[2].partition("<!-- /promises -->")[0]
    promises = table.strip().splitlines()[2:]

    assert len(promises) > 15
    assert all(re.search(r"\| `tests/", promise) for promise in promises), promises


def test_every_file_of_these_tests_is_named() -> None:
    """Nothing is tested for security that nobody was told of."""
    files = {
        str(path.relative_to(ROOT))
        for folder in ("security", "fuzz")
        for path in (ROOT / "tests" / folder).glob("test_*.py")
    }

    assert files - {file for file, _ in NAMED} == {str(Path(__file__).relative_to(ROOT))}

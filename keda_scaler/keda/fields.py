"""A manifest read field by field, collecting every problem instead of stopping at the first."""

import difflib
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

_SHOWN = 80
"""Characters of a wrong value that a problem repeats."""

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})

Choice = TypeVar("Choice", bound=str)


def parse_bool(text: str) -> bool | None:
    """Read a boolean as Go's strconv.ParseBool does; None when it is none."""
    if text in _TRUE:
        return True
    return False if text in _FALSE else None


class Fields:
    """A mapping at a path of a manifest. What is wrong with it lands in the shared `problems`."""

    def __init__(self, raw: Any, path: str, problems: list[str]) -> None:
        self._path = path
        self._problems = problems
        if not isinstance(raw, dict):
            if raw is not None:
                self._wrong(path, raw, "a mapping")
            raw = {}
        self._raw: dict[Any, Any] = raw

    def __contains__(self, key: str) -> bool:
        return self._raw.get(key) is not None

    def path_of(self, key: str) -> str:
        """Spell a field's whole path."""
        return f"{self._path}.{key}" if self._path else key

    def refuse(self, key: str, accepted: str) -> None:
        """Note that the field's value is not one that is accepted."""
        self._wrong(self.path_of(key), self._raw.get(key), accepted)

    def only(self, known: Collection[str]) -> None:
        """Note every field that KEDA does not have; the API server refuses it too."""
        for key in self._raw:
            if key in known:
                continue
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.7)
            hint = f"; did you mean {near[0]}?" if near else ""
            self._problems.append(f"{self.path_of(str(key)[:_SHOWN])}: unknown field{hint}")

    def require(self, *keys: str) -> None:
        """Note every field of these that is absent."""
        for key in keys:
            if key not in self:
                self._problems.append(f"{self.path_of(key)}: missing")

    def under(self, key: str) -> "Fields":
        """Give the mapping in a field; empty when absent."""
        return Fields(self._raw.get(key), self.path_of(key), self._problems)

    def items(self, key: str) -> Iterator["Fields"]:
        """Give the mappings in a list; none when absent."""
        raw = self._raw.get(key)
        if raw is not None and not isinstance(raw, list):
            self.refuse(key, "a list")
            return
        for index, item in enumerate(raw or []):
            path = f"{self.path_of(key)}[{index}]"
            if item is None:
                self._wrong(path, item, "a mapping")
            yield Fields(item, path, self._problems)

    def text(self, key: str, default: str = "") -> str:
        """Give a string; the default when absent."""
        raw = self._raw.get(key)
        if raw is None:
            return default
        if not isinstance(raw, str):
            self.refuse(key, "a string")
            return default
        return raw

    def choice(self, key: str, accepted: Collection[Choice], default: Choice) -> Choice:
        """Give one of the accepted strings; the default when absent."""
        raw = self._raw.get(key)
        for one in accepted:
            if raw == one:
                return one
        if raw is not None:
            self.refuse(key, " or ".join(accepted))
        return default

    def integer(self, key: str, low: int, high: int = 2**31 - 1) -> int | None:
        """Give a whole number within bounds; None when absent."""
        raw = self._raw.get(key)
        if raw is None:
            return None
        # A bool is an int in Python and none in Kubernetes.
        if not isinstance(raw, int) or isinstance(raw, bool) or not low <= raw <= high:
            bounds = f"at least {low}" if high == 2**31 - 1 else f"from {low} to {high}"
            self.refuse(key, f"a whole number, {bounds}")
            return None
        return raw

    def quantity(self, key: str) -> float | None:
        """Give a Kubernetes quantity such as 0.05 or 50m, at least 0; None when absent."""
        raw = self._raw.get(key)
        if raw is None:
            return None
        text = str(raw)
        try:
            number = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
        except ValueError:
            number = -1.0
        if isinstance(raw, bool) or not 0 <= number < float("inf"):
            self.refuse(key, "a quantity such as 0.05 or 50m, at least 0")
            return None
        return number

    def strings(self, key: str) -> dict[str, str]:
        """Give a mapping of strings to strings; anything else in it is a problem."""
        inner = self.under(key)
        for name, value in inner._raw.items():  # noqa: SLF001  # the same class
            if not isinstance(name, str) or not isinstance(value, str):
                path = inner.path_of(str(name)[:_SHOWN])
                self._wrong(path, value, 'a string; quote it, as in "5"')
        return {str(name): str(value) for name, value in inner._raw.items()}  # noqa: SLF001  # same

    def _wrong(self, path: str, given: Any, accepted: str) -> None:
        shown = "null" if given is None else repr(given)[:_SHOWN]
        self._problems.append(f"{path}: got {shown}; accepted: {accepted}")

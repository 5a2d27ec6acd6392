"""A gateway's page, and what the targets behind the gateway see in it.

A thousand targets may read the same page; without what is kept here each of them would look at the
series of all others.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

from keda_scaler.engines.samples import Sample

PAGE = ""
"""Name of the sample that stands for a page as a whole, which no page can have."""


class View:
    """What all targets of a namespace see in one page; found once, and indexed."""

    def __init__(self, ours: Sequence[Sample], alive: Sequence[Sample], *, is_page: bool) -> None:
        self.ours = ours
        """Samples that count requests, and those of the namespace."""

        self.alive = alive
        """Samples that show that the gateway was read."""

        self.is_page = is_page
        """Whether the gateway itself served them."""

        self._indexes: dict[str, dict[str, list[Sample]]] = {}

    def find(self, index: str, key: Callable[[Sample], str], value: str) -> Sequence[Sample]:
        """Give those of `ours` whose key is the value; `index` is the name of the key."""
        known = self._indexes.get(index)
        if known is None:
            known = self._indexes[index] = {}
            for sample in self.ours:
                known.setdefault(key(sample), []).append(sample)
        return known.get(value, ())


class Page(tuple[Sample, ...]):  # noqa: SLOT001  # the views are kept in its dictionary
    """The samples of one page, and what was found in them."""

    @cached_property
    def views(self) -> dict[tuple[str, bool], View]:
        """What targets see, by their namespace, and by whether their scope is trusted."""
        return {}

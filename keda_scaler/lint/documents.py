"""Manifests: a YAML text of many documents, each field with its line. Bounded before it is built.

PyYAML is handed only what its recursion can take: depth is counted on its events, and sizes with
every alias expanded on its nodes, each node once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from keda_scaler.errors import ScaledObjectError

MAX_BYTES = 8 * 2**20
"""One file. Rendered charts have several hundred KiB."""

MAX_DOCUMENTS = 10_000
"""Of one file, items of lists included."""

MAX_NODES = 500_000
"""Fields and values of one file, aliases expanded."""

MAX_DEPTH = 100
"""How deep fields lie in each other."""

_SHOWN = 80
"""Characters of a key that are part of its path, as in `keda.fields`."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INDEX = re.compile(r"\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Document:
    """One Kubernetes object of the input."""

    place: str
    """The file; `-` for standard input, `cluster` for the API server."""

    raw: Any
    node: yaml.Node | None = None
    """Where its fields stand; None: in no file."""

    @property
    def kind(self) -> str:
        """Its kind; empty when it has none."""
        return text_at(self.raw, "kind")

    @property
    def name(self) -> str:
        """Its name; empty when it has none."""
        return text_at(self.raw, "metadata", "name")

    @property
    def namespace(self) -> str:
        """Its namespace; `default` when it does not say."""
        return text_at(self.raw, "metadata", "namespace") or "default"

    def line_of(self, path: str) -> int | None:
        """Give the line of a field, or of what is nearest to where it should be; from 1."""
        if self.node is None:
            return None
        node, line = self.node, self.node.start_mark.line
        while path:
            step = _step(node, path)
            if step is None:
                break
            line, node, path = step
        return int(line) + 1


def value_at(raw: Any, *keys: str | int) -> Any:
    """Give what stands at a path of fields and indices; None where there is nothing."""
    for key in keys:
        if isinstance(raw, dict):
            raw = raw.get(key)
        elif isinstance(raw, list) and isinstance(key, int) and key < len(raw):
            raw = raw[key]
        else:
            return None
    return raw


def text_at(raw: Any, *keys: str | int) -> str:
    """Give the text that stands at a path; empty where there is none."""
    value = value_at(raw, *keys)
    return value if isinstance(value, str) else ""


def parse_documents(content: bytes, place: str) -> list[Document]:
    """Read every object of a YAML or JSON text; a List is its items.

    Raises:
        ScaledObjectError: when it is no such text, or larger than what is bounded above.

    """
    try:
        return _parse(content, place)
    except (ScaledObjectError, UnicodeDecodeError) as error:
        said = "not a UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ScaledObjectError(f"{place}: {said}") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
        said = " ".join(str(error).split())[:300]
        raise ScaledObjectError(f"{place}: not YAML: {said}") from error


def _parse(content: bytes, place: str) -> list[Document]:
    if len(content) > MAX_BYTES:
        raise ScaledObjectError(f"more than {MAX_BYTES // 2**20} MiB")
    text = content.decode("utf-8-sig")
    _check_depth(text)
    found: list[Document] = []
    nodes = 0
    for node in yaml.compose_all(text, Loader=_LOADER):
        if node is None:
            continue
        nodes += _Measure().of(node)[0]
        if nodes > MAX_NODES:
            raise _refused(node, f"more than {MAX_NODES} fields, aliases expanded")
        raw = yaml.constructor.SafeConstructor().construct_document(node)
        found += _items(Document(place, raw, node))
        if len(found) > MAX_DOCUMENTS:
            raise ScaledObjectError(f"more than {MAX_DOCUMENTS} objects")
    return found


def _items(document: Document) -> Iterator[Document]:
    """Give the items of a List, as `kubectl get -o yaml` prints it, else the document itself."""
    items = value_at(document.raw, "items")
    if not document.kind.endswith("List") or not isinstance(items, list):
        yield document
        return
    step = _step(document.node, "items") if document.node else None
    nodes = step[1].value if step and isinstance(step[1], yaml.SequenceNode) else []
    for raw, node in zip(items, nodes, strict=True):
        yield Document(document.place, raw, node)


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _refused(event, f"more than {MAX_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _refused(at: Any, why: str) -> ScaledObjectError:
    return ScaledObjectError(f"line {at.start_mark.line + 1}: {why}")


class _Measure:
    """How large and how deep nodes are with aliases expanded; an alias costs nothing twice."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int] | None] = {}

    def of(self, node: yaml.Node) -> tuple[int, int]:
        """Give the size and the depth.

        An anchor stands before its aliases, so that this recursion is as deep as the text.

        Raises:
            ScaledObjectError: when a node holds itself, or is too deep or too large.

        """
        if id(node) in self._known:
            known = self._known[id(node)]
            if known is None:
                raise _refused(node, "an anchor holds itself")
            return known
        self._known[id(node)] = None
        size, depth = 1, 0
        for child in _children(node):
            inner, deep = self.of(child)
            size, depth = size + inner, max(depth, deep + 1)
        if depth > MAX_DEPTH:
            raise _refused(node, f"more than {MAX_DEPTH} levels deep")
        if size > MAX_NODES:
            raise _refused(node, f"more than {MAX_NODES} fields, aliases expanded")
        self._known[id(node)] = size, depth
        return size, depth


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _step(node: yaml.Node, path: str) -> tuple[int, yaml.Node, str] | None:
    """Go one field down: its line from 0, its value, the rest of the path."""
    if isinstance(node, yaml.SequenceNode):
        index = _INDEX.match(path)
        if index is None or int(index[1]) >= len(node.value):
            return None
        inner = node.value[int(index[1])]
        return inner.start_mark.line, inner, path[index.end() :].removeprefix(".")
    if not isinstance(node, yaml.MappingNode):
        return None
    named = [
        (key, value)
        for key, value in node.value
        if isinstance(key, yaml.ScalarNode) and _leads(path, key.value[:_SHOWN])
    ]
    if not named:
        return None
    key, value = max(named, key=lambda pair: len(pair[0].value))  # a key may hold dots itself
    return key.start_mark.line, value, path[len(key.value[:_SHOWN]) :].removeprefix(".")


def _leads(path: str, key: str) -> bool:
    return path.startswith(key) and path[len(key) : len(key) + 1] in {"", ".", "["}

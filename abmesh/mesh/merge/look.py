"""Reading a configuration's tree: fields in either spelling, through anchors and merge keys. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from abmesh.mesh.merge.tree import Alias, Mapping, Node, Scalar, Sequence

MERGE: Final = "<<"

_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_NUMBER: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, object]] = {"true": True, "false": False, "null": None, "~": None, "": None}


def resolved(node: Node) -> Node:
    """The node that an alias stands for; any other node itself."""
    while isinstance(node, Alias):
        node = node.target
    return node


def spellings(key: str) -> tuple[str, str]:
    """A field's name as Envoy accepts it: ``route_config`` and ``routeConfig``."""
    first, *rest = key.split("_")
    return key, first + "".join(part.capitalize() for part in rest)


def own_entry(mapping: Mapping, key: str) -> tuple[Scalar, Node] | None:
    """A field that is written in the mapping itself, in either spelling."""
    names = spellings(key)
    return next(((found, value) for found, value in mapping.entries if found.text in names), None)


def get(node: Node | None, *path: str) -> Node | None:
    """Follow fields, also through aliases and merge keys; None if there is no such field."""
    for key in path:
        node = resolved(node) if node is not None else None
        if not isinstance(node, Mapping):
            return None
        node = _field(node, key)
    return None if node is None else resolved(node)


def _field(mapping: Mapping, key: str) -> Node | None:
    found = own_entry(mapping, key)
    if found is not None:
        return found[1]
    for name, value in mapping.entries:
        if name.text == MERGE and not name.quoted:
            value = resolved(value)
            for merged in value.items if isinstance(value, Sequence) else [value]:
                merged = resolved(merged)
                inside = _field(merged, key) if isinstance(merged, Mapping) else None
                if inside is not None:
                    return inside
    return None


def items(node: Node | None, *path: str) -> list[Node]:
    """The items of a sequence, aliases resolved; empty if it is absent or something else."""
    found = get(node, *path) if node is not None else None
    return [resolved(item) for item in found.items] if isinstance(found, Sequence) else []


def text(node: Node | None, *path: str) -> str:
    """A field's text; empty if it is absent or a collection."""
    found = get(node, *path) if node is not None else None
    return found.text if isinstance(found, Scalar) else ""


def fields(node: Node | None) -> list[str]:
    """Names of a mapping's fields in snake case, those of merge keys included."""
    node = resolved(node) if node is not None else None
    if not isinstance(node, Mapping):
        return []
    found: list[str] = []
    for key, value in node.entries:
        if key.text == MERGE and not key.quoted:
            value = resolved(value)
            for merged in value.items if isinstance(value, Sequence) else [value]:
                found += fields(merged)
        else:
            found.append(re.sub(r"(?<=[a-z0-9])([A-Z])", lambda it: "_" + it[1].lower(), key.text))
    return list(dict.fromkeys(found))


def is_empty(node: Node | None) -> bool:
    """Whether a value is absent, null, or a collection of nothing."""
    node = resolved(node) if node is not None else None
    if isinstance(node, Scalar):
        return not node.quoted and value_of(node) is None
    return node is None or not (node.entries if isinstance(node, Mapping) else node.items)  # type: ignore[union-attr]


def value_of(node: Scalar) -> Any:
    """A scalar as JSON has it."""
    if node.quoted:
        return node.text
    if node.text.lower() in _WORDS:
        return _WORDS[node.text.lower()]
    if _INTEGER.fullmatch(node.text):
        return int(node.text)
    if _NUMBER.fullmatch(node.text):
        return float(node.text)
    return node.text


def plain(node: Node) -> Any:
    """The node as JSON has it: aliases and merge keys are kept apart, so that two trees compare as they are written."""
    if isinstance(node, Alias):
        return plain(node.target)
    if isinstance(node, Mapping):
        return {key.text: plain(value) for key, value in node.entries}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return value_of(node)

"""An Envoy configuration's text, YAML or JSON, as a tree whose nodes know where in the text they stand. Pure.

:mod:`abmesh.experiment.yaml_nodes` does the same for the experiments document, but refuses anchors and aliases, which
configurations of Envoy use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from abmesh.experiment.errors import RenderError
from abmesh.text import shorten


@dataclass(slots=True, eq=False)
class Scalar:
    """One value.

    Attributes:
        text: the value without quotes.
        quoted: whether it is in quotes or a block of text, and so cannot be anything but text.
        start: index of its first character in the source; where it is absent, the end of what precedes it.
        end: index after its last one.
        line: 1-based.
        shared: whether it is also used elsewhere through an anchor.
    """

    text: str
    quoted: bool
    start: int
    end: int
    line: int
    shared: bool = False


@dataclass(slots=True, eq=False)
class Mapping:
    """A mapping; ``entries`` are its keys and values. Attributes as of :class:`Scalar`; ``column`` is of its keys."""

    is_flow: bool
    start: int
    end: int
    line: int
    column: int
    entries: list[tuple[Scalar, Node]] = field(default_factory=list)
    shared: bool = False


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence. Attributes as of :class:`Scalar`; ``column`` is that of its dashes."""

    is_flow: bool
    start: int
    end: int
    line: int
    column: int
    items: list[Node] = field(default_factory=list)
    shared: bool = False


@dataclass(slots=True, eq=False)
class Alias:
    """The use of an anchor."""

    target: Node
    start: int
    end: int
    line: int
    shared: bool = True


Node: TypeAlias = Scalar | Mapping | Sequence | Alias


def compose(text: str, source: str) -> Mapping:
    """The tree of a configuration.

    Raises:
        RenderError: it is not YAML or JSON, or not one mapping.
    """
    try:
        root = _Builder(source).build(_readable(text))
    except RenderError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        raise RenderError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise RenderError(f"{source}: not valid YAML: {shorten(str(error), 200)}") from error
    if not isinstance(root, Mapping):
        raise RenderError(f"{source}: not an Envoy configuration; allowed: a mapping with static_resources")
    return root


def _readable(text: str) -> str:
    """The text with tabs that only JSON allows as spaces, so that every index stays."""
    if "\t" in text:
        try:
            json.loads(text)
        except ValueError:
            return text
        return text.replace("\t", " ")  # JSON has no tabs inside strings
    return text


class _Builder:
    def __init__(self, source: str) -> None:
        self._source = source
        self._anchors: dict[str, Node] = {}
        self._last = 0

    def build(self, text: str) -> Node | None:
        events: Iterator[Any] = YAML(typ="safe", pure=True).parse(text)
        documents = 0
        root: Node | None = None
        for event in events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise RenderError(
                        f"{self._source}:{event.start_mark.line + 1}: a second YAML document; allowed: one in a file"
                    )
            elif isinstance(event, ScalarEvent | CollectionStartEvent | AliasEvent):
                root = self._node(event, events)
        return root

    def _node(self, event: Any, events: Iterator[Any]) -> Node:
        start, end, line = event.start_mark.index, event.end_mark.index, event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            self._last = end
            target = self._anchors[event.anchor]
            _share(target)
            return Alias(target, start, end, line)
        if isinstance(event, ScalarEvent):
            made: Node = self._scalar(event, start, end, line)
        elif isinstance(event, MappingStartEvent):
            made = self._mapping(event, events, start, line)
        else:
            made = self._sequence(event, events, start, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = made
        return made

    def _scalar(self, event: Any, start: int, end: int, line: int) -> Scalar:
        if start == end:  # an absent value: the event's mark is at the next token
            start = end = self._last
        elif event.style in ("|", ">"):
            # The mark is after blank lines and comments that follow; those belong to nobody.
            end = start + len(_text_of(event, start, end))
        self._last = end
        return Scalar(event.value, bool(event.style), start, end, line)

    def _mapping(self, event: Any, events: Iterator[Any], start: int, line: int) -> Mapping:
        made = Mapping(bool(event.flow_style), start, start, line, event.start_mark.column)
        if event.anchor is not None:
            self._anchors[event.anchor] = made
        for inner in events:
            if isinstance(inner, MappingEndEvent):
                break
            self._last = inner.end_mark.index
            key = self._node(inner, events)
            if not isinstance(key, Scalar):
                raise RenderError(f"{self._source}:{inner.start_mark.line + 1}: a key that is not text")
            # After the colon, so that an absent value ends there.
            self._last = key.end + 1
            if not made.entries:
                made.column = inner.start_mark.column
            made.entries.append((key, self._node(next(events), events)))
        made.end = self._last = inner.end_mark.index if made.is_flow else self._last
        return made

    def _sequence(self, event: Any, events: Iterator[Any], start: int, line: int) -> Sequence:
        made = Sequence(bool(event.flow_style), start, start, line, event.start_mark.column)
        if event.anchor is not None:
            self._anchors[event.anchor] = made
        for inner in events:
            if isinstance(inner, SequenceEndEvent):
                break
            made.items.append(self._node(inner, events))
        made.end = self._last = inner.end_mark.index if made.is_flow else self._last
        return made


def _text_of(event: Any, start: int, end: int) -> str:
    written = str(event.start_mark.buffer[start:end])
    if "+" in written.partition("\n")[0]:
        return written.removesuffix("\n")  # its blank lines are content
    return written.rstrip()


def _share(node: Node) -> None:
    """Mark a node and all inside it as used in several places."""
    node.shared = True
    if isinstance(node, Mapping):
        for key, value in node.entries:
            key.shared = True
            _share(value)
    elif isinstance(node, Sequence):
        for item in node.items:
            _share(item)

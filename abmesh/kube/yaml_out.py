"""Plain data as YAML for people: objects that are printed, and the committed definition of Experiments. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any, Final

from ruamel.yaml import YAML

_WIDTH: Final = 120


def dump(documents: Sequence[Any]) -> str:
    """The documents as YAML, with ``---`` between them, without aliases, in the order of their keys."""
    stream = StringIO()
    writer = YAML()
    writer.width = _WIDTH
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.representer.ignore_aliases = lambda *_: True
    for place, document in enumerate(documents):
        if place:
            stream.write("---\n")
        writer.dump(document, stream)
    return stream.getvalue()

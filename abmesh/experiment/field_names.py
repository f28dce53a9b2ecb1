"""Names of the document's fields: those that a model has, and old ones that a document still uses. Pure.

Called by :mod:`abmesh.experiment.codec` for warnings, and by :mod:`abmesh.experiment.problems`. The models accept old
names themselves; see :class:`abmesh.experiment.validation.Frozen`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from abmesh.experiment import yaml_nodes
from abmesh.experiment.errors import Problem
from abmesh.experiment.model import Document
from abmesh.experiment.validation import Frozen
from abmesh.experiment.yaml_nodes import Node, Path


@dataclass(frozen=True, slots=True)
class OldName:
    """A field that a document calls by its old name.

    Attributes:
        path: of the field as it is written, so it ends with the old name.
        new: its present name.
    """

    path: Path
    new: str

    def warning(self, root: Node) -> Problem:
        """What to tell the document's author."""
        _, key, _ = yaml_nodes.find(root, self.path)
        message = f"deprecated field; rename it to {self.new}"
        return Problem(yaml_nodes.format_path(self.path), 0 if key is None else key.line, message)


def known(path: Sequence[str | int], root: type[Frozen] = Document) -> tuple[str, ...]:
    """The names of the fields of the model that a path leads to.

    Args:
        path: of fields by their names or their aliases.
        root: the model that it begins at.
    """
    here: Any = root
    for step in path:
        here = _inside(here, step)
    return tuple(_plain(here).model_fields)


def old_names(data: object) -> tuple[OldName, ...]:
    """Every old name in a document's plain data, in its order."""
    return tuple(_old_names(data, Document, ()))


def _old_names(data: object, annotation: Any, path: Path) -> Iterator[OldName]:
    """Recursion is bounded by the depth that :func:`abmesh.experiment.yaml_nodes.compose` allows."""
    here = _plain(annotation)
    if isinstance(data, Mapping):
        renamed = here.renamed_fields if isinstance(here, type) and issubclass(here, Frozen) else {}
        entries = list(data.items())
        yield from (OldName((*path, name), renamed[name]) for name, _ in entries if name in renamed)
    elif isinstance(data, list):
        entries = list(enumerate(data))
    else:
        return
    for step, value in entries:
        yield from _old_names(value, _inside(here, step), (*path, step))


def as_written(path: Sequence[str | int], found: Sequence[OldName]) -> tuple[str | int, ...]:
    """A path with the old names that the document uses."""
    written = tuple(path)
    for old in found:
        present = (*old.path[:-1], old.new)
        if written[: len(present)] == present:
            written = (*old.path, *written[len(present) :])
    return written


def _plain(annotation: Any) -> Any:
    """An annotation without its validators and without None."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, UnionType):
            annotation = next(option for option in get_args(annotation) if option is not NoneType)
        else:
            return annotation


def _inside(annotation: Any, step: str | int) -> Any:
    """The annotation of a field or item of a value; None if it has no such field or item."""
    here = _plain(annotation)
    if isinstance(here, type) and issubclass(here, Frozen):
        name = here.renamed_fields.get(str(step), str(step))
        field = here.model_fields.get(name)
        if field is None:
            field = next((found for found in here.model_fields.values() if found.alias == name), None)
        return None if field is None else field.annotation
    if get_origin(here) is tuple:
        return get_args(here)[0]
    return get_args(here)[1] if get_origin(here) is dict else None

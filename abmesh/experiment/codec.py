"""The experiments document as text: read it with every problem named, edit its weights, describe it as JSON Schema.

Pure; called by :mod:`abmesh.experiment.store` and by others that have the text at hand. A person's file is never
rewritten: an edit replaces the characters of the weights that change, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema

from abmesh.experiment import field_names, yaml_edit, yaml_nodes, yaml_plain
from abmesh.experiment.bucketing import Ranges, reallocate
from abmesh.experiment.errors import DocumentError, Problem, UnknownName, WeightsError
from abmesh.experiment.forms import AS_FILE
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.names import BUCKETS, DEFAULT_CONFIG
from abmesh.experiment.problems import problems_of
from abmesh.experiment.quantities import Bytes, format_duration, format_size, format_weight
from abmesh.experiment.yaml_nodes import Collection, Node, Scalar

VERSIONS: Final = (1,)
"""Versions of the document that can be read."""


class Parsed(NamedTuple):
    """A document that was read from text.

    Attributes:
        document: what the text means.
        warnings: what is still accepted but should be changed, such as a field's old name.
        root: the text's tree.
    """

    document: Document
    warnings: tuple[Problem, ...]
    root: Node


def parse(text: str, source: str = DEFAULT_CONFIG) -> Document:
    """The document that a text holds; see :func:`parse_with_warnings`."""
    return parse_with_warnings(text, source).document


def parse_with_warnings(text: str, source: str = DEFAULT_CONFIG) -> Parsed:
    """The document that a text holds, and what its author should change.

    Problems come in three layers: invalid YAML or values that are not plain data; fields that are wrong on their own;
    rules between fields. The first layer with problems ends the search, and all of its problems are named.

    Args:
        text: YAML 1.2, at most 1 MiB.
        source: what messages call the text, usually the file's path.

    Raises:
        DocumentError: the text is refused; carries every problem found.
    """
    root = yaml_nodes.compose(text, source)
    data = yaml_plain.plain(root, text, source)
    if not isinstance(data, dict):
        found, allowed = yaml_nodes.quote(root, text, ()), "a mapping that starts with version: 1"
        raise DocumentError(source, (Problem("", root.line, "the document is not a mapping", found, allowed),))
    _check_version(data, root, text, source)
    old_names = field_names.old_names(data)
    try:
        document = Document.model_validate(data, context=AS_FILE)
    except ValidationError as error:
        raise DocumentError(source, problems_of(error, root, text, old_names)) from error
    return Parsed(document, tuple(old.warning(root) for old in old_names), root)


def _check_version(data: Mapping[str, object], root: Node, text: str, source: str) -> None:
    """Refuse another version for that alone: read as version 1, it would have a hundred unknown fields."""
    version = data.get("version", VERSIONS[0])
    if type(version) is int and version in VERSIONS:
        return
    node, key, _ = yaml_nodes.find(root, ("version",))
    line = (key or node).line
    message = "this abmesh cannot read this version of the document"
    allowed = ", ".join(map(str, VERSIONS))
    raise DocumentError(
        source, (Problem("version", line, message, yaml_nodes.quote(node, text, ("version",)), allowed),)
    )


def edit_weights(
    text: str, experiment: str, weights: Mapping[str, int], source: str = DEFAULT_CONFIG
) -> tuple[str, Document]:
    """Give an experiment new weights and keep every other character.

    If the experiment has more than two variants, or already has ``ranges``, its ranges are fitted to the new weights
    with the fewest moves and written with them.

    Args:
        text: a valid document.
        experiment: name of the experiment.
        weights: basis points by variant; variants that are not named keep theirs.
        source: what messages call the text.

    Returns:
        The new text, and the document that it holds.

    Raises:
        DocumentError: the text is not a valid document.
        UnknownName: it has no such experiment or variant.
        WeightsError: the weights do not sum to 100, or the text cannot be edited without changing anything else.
    """
    document, _, root = parse_with_warnings(text, source)
    before = document.experiment(experiment)
    wanted = _checked(before, weights)
    if wanted == before.weights:
        return text, document
    ranges = None
    if before.ranges is not None or len(wanted) > 2:
        ranges = reallocate(before.effective_ranges, wanted)
    expected = _expected(document, before, wanted, ranges)
    index = document.experiments.index(before)
    try:
        edited = _edited(text, root, index, before, wanted, ranges)
        after = parse(edited, source)
    except (DocumentError, yaml_edit.NotEditable) as error:
        raise _not_editable(source, experiment) from error
    if after != expected:
        raise _not_editable(source, experiment)
    return edited, after


def _checked(experiment: Experiment, weights: Mapping[str, int]) -> dict[str, int]:
    present = experiment.weights
    for name in weights:
        if name not in present:
            raise UnknownName("variant", name, tuple(present))
    wanted = {**present, **weights}
    total = sum(wanted.values())
    if total != BUCKETS or min(wanted.values()) < 0:
        shown = " + ".join(f"{name} {format_weight(weight)}" for name, weight in wanted.items())
        raise WeightsError(f"weights must be at least 0 and sum to exactly 100; found {shown} = {format_weight(total)}")
    return wanted


def _expected(document: Document, before: Experiment, weights: Mapping[str, int], ranges: Ranges | None) -> Document:
    variants = tuple(variant.model_copy(update={"weight": weights[variant.name]}) for variant in before.variants)
    after = before.model_copy(update={"variants": variants, "ranges": ranges})
    experiments = tuple(after if item is before else item for item in document.experiments)
    return document.model_copy(update={"experiments": experiments})


def _not_editable(source: str, experiment: str) -> WeightsError:
    return WeightsError(
        f"{source}: cannot change the weights of {experiment} without changing something else; write its variants as a "
        "plain list with one field per line, or edit the weights by hand"
    )


def _edited(
    text: str, root: Node, index: int, before: Experiment, weights: Mapping[str, int], ranges: Ranges | None
) -> str:
    edits = []
    for place, variant in enumerate(before.variants):
        if weights[variant.name] != variant.weight:
            node, _, _ = yaml_nodes.find(root, ("experiments", index, "variants", place, "weight"))
            assert isinstance(node, Scalar)
            edits.append(yaml_edit.replace_scalar(node, format_weight(weights[variant.name])))
    if ranges is not None:
        experiment, _, _ = yaml_nodes.find(root, ("experiments", index))
        assert isinstance(experiment, Collection)
        edits.append(yaml_edit.put_mapping(text, experiment, "ranges", ranges, after="variants"))
    return yaml_edit.apply(text, edits)


class _AsWritten(GenerateJsonSchema):
    """Gives defaults as the document writes them; pydantic itself writes an hour as ``PT1H``."""

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, timedelta):
            return format_duration(dft)
        return format_size(dft) if isinstance(dft, Bytes) else super().encode_default(dft)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the document, for editors."""
    schema = Document.model_json_schema(by_alias=False, schema_generator=_AsWritten)
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "abmesh experiments document"}
    return {**title, **{key: value for key, value in schema.items() if key not in title}}

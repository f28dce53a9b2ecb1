"""What every model of the document is built on: the base class, and how a broken rule is reported. Pure.

Rules between fields raise :func:`refuse` with a path relative to the model that raises, so that
:mod:`abmesh.experiment.problems` can name the exact field and line.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from abmesh.experiment.forms import in_object
from abmesh.experiment.names import ENVOY_PREFIX, MODEL_VERSION, TRUSTED_PREFIX

OF_THE_CONNECTION = ("connection", "content-length", "transfer-encoding")


class Described(BaseModel):
    """Base of models whose docstrings become the descriptions of their JSON Schema."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        written = handler.resolve_ref_schema(schema)
        written["description"], _ = _explained(cls.__doc__ or "")
        meanings: dict[str, str] = {}
        for model in reversed(cls.__mro__):  # what a base says of its fields holds here too
            if issubclass(model, Described):
                meanings |= _explained(model.__doc__ or "")[1]
        fields = written.get("properties", {})
        for field, meaning in meanings.items():
            name = field if field in fields else to_camel(field)
            if field in cls.model_fields:
                form = fields[name].get("description")
                fields[name]["description"] = f"{meaning} Write {form}." if form else meaning
        return schema


class Frozen(Described):
    """Base of every model of the document: immutable, and unknown keys are refused.

    A file calls fields by their names, Kubernetes' object by their aliases: pass ``by_alias=True, by_name=False``, and
    a context of :mod:`abmesh.experiment.forms`, to read an object.

    Attributes:
        renamed_fields: names that fields once had, each with its present name. The old ones are still accepted, in the
            document and in journals; :func:`abmesh.experiment.field_names.old_names` finds them in a document.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=False
    )
    renamed_fields: ClassVar[Mapping[str, str]] = {}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields replaced, and nothing that was computed from those of before."""
        copy = super().model_copy(update=update, deep=deep)
        for name in copy.__dict__.keys() - type(copy).model_fields.keys():
            del copy.__dict__[name]  # pydantic keeps what a cached_property found
        return copy

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, value: object, info: ValidationInfo) -> object:
        if in_object(info):  # objects came later than these names
            return value
        if not isinstance(value, Mapping) or not cls.renamed_fields.keys() & value.keys():
            return value
        for old, new in cls.renamed_fields.items():
            if old in value and new in value:
                message = f"{old} is the old name of {new}, and both are given"
                raise refuse(message, old, allowed=f"{new} alone")
        return {cls.renamed_fields.get(name, name): item for name, item in value.items()}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        fields = handler.resolve_ref_schema(schema)["properties"]
        for old, new in cls.renamed_fields.items():
            if new not in fields:
                continue  # an object's schema, which has no old names
            fields[old] = {**fields[new], "deprecated": True, "description": f"Old name of {new}."}
        return schema


def _explained(docstring: str) -> tuple[str, dict[str, str]]:
    """What a model is, and what each field under ``Attributes:`` means, as sentences for editors."""
    summary, _, attributes = inspect.cleandoc(docstring).replace("``", "`").partition("\nAttributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", attributes, re.MULTILINE)
    sentences = {name: " ".join(meaning.split()) for name, meaning in found}
    return " ".join(summary.split()), {name: text[0].upper() + text[1:] for name, text in sentences.items()}


def refuse(message: str, *path: str | int, found: object = "", allowed: str = "") -> PydanticCustomError:
    """The error for a broken rule, to be raised in a validator; ``path`` leads from there to the field."""
    context: dict[str, Any] = {"path": path, "found": str(found), "allowed": allowed}
    return PydanticCustomError("invariant", "{message}", {**context, "message": message})


def raise_all(problems: Iterable[PydanticCustomError]) -> None:
    """Raise errors from :func:`refuse`, several of them as one error that carries them all; nothing without errors."""
    found = list(problems)
    if len(found) == 1:
        raise found[0]
    if found:
        raise PydanticCustomError(
            "invariants",
            "{message}",
            {
                "message": "; ".join(problem.message() for problem in found),
                "problems": tuple(problem.context for problem in found),
            },
        )


def did_you_mean(message: str, name: str, known: Iterable[str]) -> str:
    """The message, and the known name that was probably meant, if one is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"{message}; did you mean {close[0]}?" if close else message


def header_name(value: object) -> object:
    """Lower-case a request header's name; for ``field_validator(..., mode="before")``."""
    return _lowered(value) if isinstance(value, str) else value


def response_header_name(value: object) -> object:
    """Like :func:`header_name`, for a response header of the upstream; headers that Envoy sets itself are refused."""
    if not isinstance(value, str):
        return value
    name = _form_checked(value)
    if name.startswith(ENVOY_PREFIX):
        message = "Envoy sets this header itself"
        raise refuse(message, found=value, allowed=f"any header that the upstream sets, except {ENVOY_PREFIX}*")
    return name


def _form_checked(value: str, *path: str) -> str:
    name = value.lower()
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]{1,128}", name):
        raise refuse("not a header name", *path, found=value, allowed="letters, digits and -, such as x-user-id")
    return name


def _lowered(value: str, *path: str) -> str:
    """Lower-case a header name; refuse pseudo-headers and headers that only abmesh may set."""
    name = _form_checked(value, *path)
    spelled = name.replace("_", "-")  # Envoy strips spellings with underscores too
    if spelled == MODEL_VERSION or spelled.startswith((TRUSTED_PREFIX, ENVOY_PREFIX)):
        allowed = f"any header except {MODEL_VERSION}, {TRUSTED_PREFIX}* and {ENVOY_PREFIX}*, which Envoy removes"
        raise refuse("clients cannot send this header", *path, found=value, allowed=allowed)
    return name


def header_map(value: object) -> object:
    """Lower-case the names of headers with values; for ``field_validator(..., mode="before")``."""
    if not isinstance(value, Mapping):
        return value
    lowered = {_lowered(name, name) if isinstance(name, str) else name: content for name, content in value.items()}
    if len(lowered) < len(value):
        raise refuse(
            "the same header twice", found=", ".join(map(str, value)), allowed="each header once; case does not matter"
        )
    return lowered


def own_headers(headers: dict[str, str]) -> dict[str, str]:
    """Refuse headers that an HTTP client sets itself; for ``field_validator``."""
    for name in OF_THE_CONNECTION:
        if name in headers:
            message = "the HTTP client sets this header itself"
            raise refuse(message, name, found=name, allowed="any other header")
    return headers


def repeated(
    names: Iterable[str], what: str, *path: str | int, field: str | None = None
) -> Iterator[PydanticCustomError]:
    """Refuse every repeated name; ``path`` leads to the list, ``field`` to the name inside an item."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            where = (*path, index) if field is None else (*path, index, field)
            yield refuse(f"{what} {name!r} appears twice", *where, found=name, allowed="each name once")
        seen.add(name)

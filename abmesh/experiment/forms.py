"""The two forms in which an experiment is written: the file, and Kubernetes' object. Pure.

The models are the same. A form is a pydantic context: the types of :mod:`abmesh.experiment.quantities` ask it how a
value is written, since an API server knows no type for "a number or a text".

    file      path_prefix    0.05 or 5%    0.002      true
    object    pathPrefix     5%            "0.002"    "true"
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from pydantic import SerializationInfo, ValidationInfo

Form: TypeAlias = Literal["file", "object"]

_KEY: Final = "form"

AS_FILE: Final[dict[str, Any]] = {_KEY: "file"}
"""Context for what is read from a file, or written for one."""

AS_OBJECT: Final[dict[str, Any]] = {_KEY: "object"}
"""Context for what is read from an object, or written for one."""


def form_of(info: ValidationInfo[Any] | SerializationInfo[Any]) -> Form | None:
    """The form that is read or written; None if it is neither, but Python's own values."""
    context = info.context
    return context.get(_KEY) if isinstance(context, dict) else None


def in_object(info: ValidationInfo[Any] | SerializationInfo[Any]) -> bool:
    """Whether an object is read or written."""
    return form_of(info) == "object"

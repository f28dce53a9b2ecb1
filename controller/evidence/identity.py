"""Values that are the same object, as keys of caches. Pure.

Evidence never changes once it is made, and comparing it would cost as much as working on it. Used by
:mod:`controller.decision` and :mod:`controller.codec`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

_T = TypeVar("_T")


class ById(Generic[_T]):
    """Equal only to another one of the very same object, which it keeps alive."""

    __slots__ = ("value",)

    def __init__(self, value: _T) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and other.value is self.value

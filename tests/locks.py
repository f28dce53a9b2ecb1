"""Reads the hash-pinned locks at the root of the repository."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    """One line of a lock.

    Attributes:
        requirement: name, version and the Pythons and systems that it is for.
        hashes: SHA-256 of every file of that version.
    """

    requirement: Requirement
    hashes: frozenset[str]

    @property
    def name(self) -> str:
        """In its normal form, as package indexes compare names."""
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        """The one version that is allowed."""
        (only,) = self.requirement.specifier
        assert only.operator == "=="
        return only.version

    def is_for(self, environment: dict[str, str] | None = None) -> bool:
        """Whether it is installed on a Python and system, by default these here."""
        return self.requirement.marker is None or self.requirement.marker.evaluate(environment)


def pins(lock: str) -> Iterator[Pin]:
    """Every line of a lock."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line and line[0] not in " #":
            yield Pin(Requirement(line.partition(" --hash")[0]), frozenset(_HASH.findall(line)))


def pinned(lock: str) -> dict[str, str]:
    """The versions that a lock installs here, by package."""
    return {pin.name: pin.version for pin in pins(lock) if pin.is_for()}

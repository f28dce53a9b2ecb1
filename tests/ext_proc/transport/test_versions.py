"""Which libraries the transports are told to be made of."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

from ext_proc.settings import TRANSPORTS
from ext_proc.transport import versions


def test_every_transport_names_its_library_and_version() -> None:
    assert set(versions.libraries()) == set(TRANSPORTS)
    assert versions.library("grpcio") == f"grpcio {version('grpcio')}"


@pytest.mark.parametrize(
    ("installed", "told"),
    [
        ("0.3.0", "ngh2 0.3.0 with libnghttp2 1.70.0"),
        ("9.9.9", "ngh2 9.9.9 with libnghttp2 of an unknown version"),
        (None, "ngh2 is not installed"),
    ],
)
def test_the_library_inside_is_known_by_the_version_of_its_package(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, told: str
) -> None:
    def found(package: str) -> str:
        if installed is None:
            raise PackageNotFoundError(package)
        return installed

    monkeypatch.setattr(versions, "version", found)
    assert versions.library("nghttp2") == told

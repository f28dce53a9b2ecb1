"""Settings of the controller's tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: it takes most of a tick's time, and only a power failure would show the difference."""
    monkeypatch.setattr(os, "fsync", lambda _: None)

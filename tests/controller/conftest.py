"""Settings of the property tests."""

from __future__ import annotations

from hypothesis import settings

# No deadline per example: a shared machine may stall at any of them.
settings.register_profile("abmesh", deadline=None)
settings.load_profile("abmesh")

"""Settings of the property tests: ``make test ARGS="--hypothesis-profile thorough"`` tries far more examples."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline per example: a shared machine may stall at any of them. In CI the examples are the same for the same code,
# so that what fails there fails here with CI=1 as well.
settings.register_profile("abmesh", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile("abmesh")

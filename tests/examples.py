"""How many examples a test tries if each takes long, such as one that renders Envoy's configuration or simulates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings


def examples(usual: int, **options: Any) -> settings:
    """Settings for a few examples: 5 times as many in the profile ``soak``, 20 times as many in ``thorough``."""
    factor = {"soak": 5, "thorough": 20}.get(settings.get_current_profile_name(), 1)
    return settings(max_examples=factor * usual, deadline=None, **options)


def others_in_soak(cases: Sequence[Any], kept: Sequence[Any]) -> list[Any]:
    """Cases of a parameter of which only some are tried before every change, and all in ``make soak``."""
    return [case if case in kept else pytest.param(case, marks=pytest.mark.soak) for case in cases]

"""How many examples a property test tries if each takes long, such as one that renders Envoy's configuration."""

from __future__ import annotations

from typing import Any

from hypothesis import settings


def examples(usual: int, **options: Any) -> settings:
    """Settings for a few examples; under ``--hypothesis-profile thorough``, for 20 times as many."""
    thorough = settings.get_current_profile_name() == "thorough"
    return settings(max_examples=20 * usual if thorough else usual, deadline=None, **options)

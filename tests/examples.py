"""How many examples a property test tries if each takes long, such as one that renders Envoy's configuration."""

from __future__ import annotations

from typing import Any

from hypothesis import settings


def examples(usual: int, **options: Any) -> settings:
    """Settings for a few examples: 5 times as many in the profile ``soak``, 20 times as many in ``thorough``."""
    factor = {"soak": 5, "thorough": 20}.get(settings.get_current_profile_name(), 1)
    return settings(max_examples=factor * usual, deadline=None, **options)

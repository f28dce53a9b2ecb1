"""EnvoyFilters as YAML for Git, each with a comment that says what it is for. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from abmesh.mesh.istio.envoy_filters import EnvoyFilter
from abmesh.mesh.yaml_text import to_yaml

_WIDTH = 118
_HEAD = (
    "Rendered by `abmesh render istio`; render it again after a change of the Experiments or of the routes. Weights "
    "are not in here, but for an Experiment with lane: native. Apply it server-side: kubectl apply --server-side -f "
    "FILE."
)


def to_text(filters: Sequence[EnvoyFilter]) -> str:
    """All of them, in order; the same ones always give the same text."""
    parts = [_comment(_HEAD)]
    parts += [f"---\n{_comment(item.purpose)}{to_yaml(item.body)}" for item in filters]
    return "".join(parts)


def _comment(text: str) -> str:
    return "".join(
        f"# {line}\n" for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    )

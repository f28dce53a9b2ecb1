from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.model import Document
from abmesh.experiment.places import POSITIONS, place_of, shared_place
from tests.abmesh.mesh.documents import document, experiment


@given(st.text(), st.text())
def test_a_place_is_one_of_the_highest_positions(name: str, variant: str) -> None:
    assert 4_290_000_000 <= place_of(name, variant) < POSITIONS


def test_places_never_change() -> None:
    """Servers and Envoys of different versions must agree; these were computed with another program."""
    assert place_of("chat-model", "model-b") == 4_290_512_651
    assert place_of("chat-model", "model-a") == 4_292_810_925


def _alike(name: str) -> tuple[str, str]:
    """Two names whose places are the same, which a few thousand tries find."""
    seen: dict[int, str] = {}
    for number in count():
        variant = f"v{number}"
        other = seen.setdefault(place_of(name, variant), variant)
        if other != variant:
            return other, variant
    raise AssertionError("unreachable")


def test_two_variants_at_one_place_are_refused() -> None:
    first, second = _alike("chat")
    assert shared_place("chat", [first, "other", second]) == (first, second)
    chat: dict[str, Any] = experiment()
    chat["variants"][0]["name"], chat["variants"][1]["name"] = first, second
    with pytest.raises(ValueError, match=f"{first} and {second} would share a position") as refused:
        document(chat)
    assert "another name" in str(refused.value.errors()[0])  # type: ignore[attr-defined]
    assert isinstance(document(experiment("another", clusters=("a", "b"))), Document)

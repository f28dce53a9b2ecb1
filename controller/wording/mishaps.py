"""Why nothing moves, or a change was given up, for reasons that no evidence has a part in. Pure.

Sentences without a full stop, for the journal, logs and status.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.records import Kind
from controller.wording.values import show_weights


def document_refused(error: str) -> str:
    """Why a rollout holds while the document cannot be used."""
    return f"holding because the document is refused: {error}"


def state_lost(name: str, path: object) -> str:
    """Why a rollout that the journal knows, and the state does not, is manual."""
    return (
        f"the journal knows {name}, but its state is missing from {path}; nothing moves until abmesh resume starts a "
        f"stage at the current weights"
    )


def abandoned(kind: Kind) -> str:
    """Why a change that was begun was given up."""
    return (
        f"someone edited the weights during this {kind.value}, so it was abandoned; abmesh resume continues from the "
        f"current weights"
    )


def edited_in_place() -> str:
    """Why a rollout is manual though its weights are what they were."""
    return "someone wrote these weights into the spec by hand, so nothing moves until abmesh resume continues from them"


def edited_again(weights: Mapping[str, int]) -> str:
    """Why a rollout that is manual has other weights."""
    return f"someone edited the weights again: they are now {show_weights(weights)}; abmesh resume continues from there"


def run_begun(run: str | None) -> str:
    """Why a rollout starts again at the spec's weights."""
    named = f"run {run}" if run is not None else "another run"
    return f"the spec asks for {named}, so the rollout starts again at the spec's weights"

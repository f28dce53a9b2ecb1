"""An experiment with other fields, made anew. Pure; used by what plays rollouts on assumed truths."""

from __future__ import annotations

from typing import Any

from abmesh.experiment.model import Experiment


def changed(experiment: Experiment, **changes: Any) -> Experiment:
    """The experiment with these fields and a salt that may be known.

    Not ``model_copy``, which would copy the cells that are cached for the old weights.
    """
    fields = {name: getattr(experiment, name) for name in Experiment.model_fields}
    return Experiment.model_validate({**fields, "salt": experiment.public_salt, "secret_salt": None, **changes})


def with_weights(experiment: Experiment, weights: dict[str, int]) -> Experiment:
    """The experiment at other weights, in basis points by variant."""
    variants = tuple(variant.model_copy(update={"weight": weights[variant.name]}) for variant in experiment.variants)
    return changed(experiment, variants=variants)

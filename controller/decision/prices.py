"""Evidence of earlier moments at today's prices. Pure; called by the modules beside it.

Everything that is compared must be priced alike, or a price change would look like a difference between moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from abmesh.experiment.parts import Price
from controller.decision.history import Evidence
from controller.evidence.identity import ById
from controller.evidence.summary import priced


def at_prices(evidence: Evidence, prices: Mapping[str, Price]) -> Evidence:
    """The evidence at these prices; the same object for the same evidence and prices, so that work on it is cached."""
    return _at_prices(ById(evidence), tuple(prices.items()))


@lru_cache(maxsize=512)
def _at_prices(evidence: ById[Evidence], prices: tuple[tuple[str, Price], ...]) -> Evidence:
    return priced(evidence.value, dict(prices))

"""How the EnvoyFilters of a cluster are kept, for health and metrics. Written by :mod:`controller.cluster.filters`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class FiltersStatus:
    """The state of the EnvoyFilters.

    Attributes:
        managing: whether this process keeps them now, because it leads.
        kept: how many are as they should be.
        held: why others are not, in a sentence, by the filter's namespace and name.
        refusals: Experiments that are not programmed, with the condition's reason.
        trouble: why what was read may be out of date, or why nothing can be done; empty if all is well.
        watched: whether proxies' rejects can be read.
        writes: how many filters were written, by action: apply, prune, take_back.
        rejects: how often proxies refused something right after a write.
    """

    managing: bool = False
    kept: int = 0
    held: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    watched: bool = False
    writes: Counter[str] = field(default_factory=Counter)
    rejects: int = 0

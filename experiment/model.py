"""What an experiment is: the whole of ``experiments.yaml`` as frozen models, with every invariant.

A document that these models accept can be served: no other module checks it again. Pure; only
:mod:`experiment.codec` builds these from text.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from experiment import bucketing, metrics
from experiment.errors import UnknownName
from experiment.names import BUCKETS, GROUPS
from experiment.parts import (
    Cluster,
    ClusterName,
    DnsLabel,
    EventName,
    Frozen,
    IssueCookie,
    Match,
    Override,
    Salt,
    Segments,
    UnitSource,
    Variant,
    refuse,
    require_unique,
)
from experiment.quantities import format_weight
from experiment.rollout import Rollout


class Experiment(Frozen):
    """One split of traffic between versions of a model.

    Attributes:
        salt: what the unit is hashed with; the experiment's name unless given. Changing it reshuffles every user.
        lane: who assigns: our server (``ext_proc``) or, in a later version, Envoy itself (``native``).
        unit: where identities are looked for; the first that is present wins.
        variants: in an order that, together with the weights, decides who gets what; see ``ranges``.
        slices: how many groups of users each variant is cut into for honest variances.
        ranges: which buckets each variant owns, half-open, kept by abmesh where there are more than two variants,
            so that growing one takes users only from those that shrink. Not to be edited by hand. Ranges that do
            not fit the weights are fitted with the fewest moves.
    """

    name: DnsLabel
    salt: Salt = ""
    match: Match = Match()
    lane: Literal["ext_proc", "native"] = "ext_proc"
    unit: Annotated[tuple[UnitSource, ...], Field(min_length=1, max_length=10)]
    issue_cookie: IssueCookie | None = None
    variants: Annotated[tuple[Variant, ...], Field(min_length=2, max_length=20)]
    overrides: tuple[Override, ...] = ()
    segments: Segments | None = None
    events: Annotated[tuple[EventName, ...], Field(max_length=20)] = ()
    rollout: Rollout | None = None
    slices: Annotated[int, Field(ge=GROUPS, le=100)] = 50
    ranges: dict[str, tuple[tuple[int, int], ...]] | None = None

    @cached_property
    def hash_salt(self) -> str:
        """The salt in force."""
        return self.salt or self.name

    @cached_property
    def control(self) -> Variant:
        """The variant that the others are compared with."""
        return next(variant for variant in self.variants if variant.control)

    @cached_property
    def weights(self) -> dict[str, int]:
        """Basis points by variant, in the document's order."""
        return {variant.name: variant.weight for variant in self.variants}

    @cached_property
    def effective_ranges(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """The buckets that each variant owns under the present weights."""
        if self.ranges is None:
            return bucketing.initial_ranges(self.weights)
        return bucketing.reallocate(self.ranges, self.weights)

    @cached_property
    def places(self) -> tuple[bucketing.Place, ...]:
        """Variant, slice and group of every bucket."""
        return bucketing.places(self.effective_ranges, self.slices)

    def variant(self, name: str) -> Variant:
        """The variant of a name.

        Raises:
            UnknownName: the experiment has none of that name.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise UnknownName("variant", name, tuple(self.weights))

    @model_validator(mode="after")
    def _variants(self) -> Self:
        require_unique((variant.name for variant in self.variants), "variant", "variants", field="name")
        controls = [variant.name for variant in self.variants if variant.control]
        if len(controls) != 1:
            found = ", ".join(controls) or "none"
            raise refuse("exactly one variant is the control", "variants", found=found, allowed="control: true on one")
        total = sum(variant.weight for variant in self.variants)
        if total != BUCKETS:
            found = " + ".join(format_weight(v.weight) for v in self.variants) + f" = {format_weight(total)}"
            raise refuse("weights must sum to exactly 100", "variants", found=found, allowed="100")
        return self

    @model_validator(mode="after")
    def _identity(self) -> Self:
        require_unique((str(unit.model_dump(exclude_none=True)) for unit in self.unit), "unit", "unit")
        cookies = [unit.cookie for unit in self.unit if unit.cookie]
        if self.issue_cookie and self.issue_cookie.name not in cookies:
            found, allowed = self.issue_cookie.name, ", ".join(cookies) or "a cookie listed under unit"
            raise refuse(
                "the issued cookie must be one of the units, or its holder would not be recognised",
                "issue_cookie",
                "name",
                found=found,
                allowed=allowed,
            )
        require_unique(self.events, "event", "events")
        return self

    @model_validator(mode="after")
    def _references(self) -> Self:
        names = tuple(variant.name for variant in self.variants)
        for index, override in enumerate(self.overrides):
            if override.variant not in names:
                path = ("overrides", index, "variant")
                raise refuse("unknown variant", *path, found=override.variant, allowed=", ".join(names))
        if self.rollout is None:
            return self
        others = tuple(variant.name for variant in self.variants if not variant.control)
        if self.rollout.candidate not in others:
            path = ("rollout", "candidate")
            message = "the candidate must be a variant that is not the control"
            raise refuse(message, *path, found=self.rollout.candidate, allowed=", ".join(others))
        goal = self.rollout.goal
        if goal is not None and goal.metric not in metrics.goal_names(self.events):
            allowed = ", ".join(metrics.goal_names(self.events))
            raise refuse("not a metric", "rollout", "goal", "metric", found=goal.metric, allowed=allowed)
        return self

    @model_validator(mode="after")
    def _ranges_cover(self) -> Self:
        position = 0
        for start, stop in sorted(part for parts in (self.ranges or {}).values() for part in parts):
            if start != position or stop <= start:
                found, allowed = f"[{start}, {stop}]", f"ranges that continue at {position} and end at {BUCKETS}"
                raise refuse("ranges must cover every bucket once", "ranges", found=found, allowed=allowed)
            position = stop
        if self.ranges is not None and position != BUCKETS:
            allowed = f"an end at {BUCKETS}"
            raise refuse(
                "ranges must cover every bucket once", "ranges", found=f"an end at {position}", allowed=allowed
            )
        return self


class Document(Frozen):
    """The whole of ``experiments.yaml``.

    Attributes:
        version: of the document's form.
        clusters: where the upstreams are, for ``abmesh render envoy``. Absent under Istio, which knows them.
        default_cluster: where ``abmesh render envoy`` sends requests that match no experiment; none means 404.
        experiments: the first that matches a request wins.
    """

    version: Literal[1]
    clusters: dict[ClusterName, Cluster] | None = None
    default_cluster: ClusterName | None = None
    experiments: Annotated[tuple[Experiment, ...], Field(max_length=1000)]

    def experiment(self, name: str) -> Experiment:
        """The experiment of a name.

        Raises:
            UnknownName: the document has none of that name.
        """
        for experiment in self.experiments:
            if experiment.name == name:
                return experiment
        raise UnknownName("experiment", name, tuple(experiment.name for experiment in self.experiments))

    @model_validator(mode="after")
    def _experiments(self) -> Self:
        require_unique((item.name for item in self.experiments), "experiment", "experiments", field="name")
        if self.clusters is None:
            return self
        known = ", ".join(self.clusters)
        for index, item in enumerate(self.experiments):
            for place, variant in enumerate(item.variants):
                if variant.cluster not in self.clusters:
                    path = ("experiments", index, "variants", place, "cluster")
                    raise refuse("unknown cluster", *path, found=variant.cluster, allowed=known)
        if self.default_cluster is not None and self.default_cluster not in self.clusters:
            raise refuse("unknown cluster", "default_cluster", found=self.default_cluster, allowed=known)
        return self

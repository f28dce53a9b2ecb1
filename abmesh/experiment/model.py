"""Experiments and the document that holds them: all of ``experiments.yaml`` as frozen models with every rule.

A document that these models accept can be served; no other module checks it again. Pure; only
:mod:`abmesh.experiment.codec` builds them from text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from abmesh.experiment import bucketing, metrics
from abmesh.experiment.answers import Answers, ShortEvent
from abmesh.experiment.cookie_rules import Cookies, cookie_problems
from abmesh.experiment.errors import UnknownName
from abmesh.experiment.fields import LABEL_FORM, LONGEST_TOKEN, ClusterName, ExperimentName, Origin, Salt
from abmesh.experiment.forms import form_of
from abmesh.experiment.journal_bound import JournalBound
from abmesh.experiment.limits import missing_for
from abmesh.experiment.names import BUCKETS, CONTINUED_ENDING, EXT_PROC_CLUSTER, GROUPS, OTHER_SEGMENT
from abmesh.experiment.parts import Cluster, IssueCookie, Match, Override, Price, Segments, UnitSource, Variant
from abmesh.experiment.places import shared_place
from abmesh.experiment.quantities import format_weight
from abmesh.experiment.rollout import Rollout
from abmesh.experiment.secret_source import SecretSource
from abmesh.experiment.validation import Frozen, did_you_mean, raise_all, refuse, repeated

USUAL_PORTS = (("https://", ":443"), ("http://", ":80"))


class Experiment(Frozen):
    """One split of traffic between versions of a model.

    Attributes:
        name: unique in the document.
        salt: what the unit is hashed with; default: the experiment's name. Changing it reshuffles all users.
        secret_salt: where to find a salt that clients must not know, instead of ``salt``.
        match: which requests the experiment applies to.
        lane: who assigns: our server (``ext_proc``), or Envoy itself (``native``) for requests whose unit it reads as
            the server does; the server assigns the others.
        unit: where to look for the unit; the first source that is present wins.
        issue_cookie: the cookie that gives an identity to clients without one.
        variants: their order and weights decide which users each gets; see ``ranges``.
        overrides: requests that get a variant whatever their unit.
        segments: groups of users that are reported separately.
        answers: where answers report tokens, refusals and cache hits.
        events: feedback that users send, and ``continuation``.
        rollout: how a candidate is rolled out.
        slices: number of slices that each variant's users are cut into to estimate variances between users.
        ranges: the buckets of each variant, half-open. With more than two variants abmesh maintains them, so that a
            growing variant takes users only from shrinking ones. Do not edit them. Ranges that do not fit the weights
            are fitted with the fewest moves.
    """

    name: ExperimentName
    salt: Annotated[Salt, Field(json_schema_extra=lambda schema: schema.pop("default"))] = ""
    secret_salt: SecretSource | None = None
    match: Match = Match()
    lane: Literal["ext_proc", "native"] = "ext_proc"
    unit: Annotated[tuple[UnitSource, ...], Field(min_length=1, max_length=10)]
    issue_cookie: IssueCookie | None = None
    variants: Annotated[tuple[Variant, ...], Field(min_length=2, max_length=20)]
    overrides: Annotated[tuple[Override, ...], Field(max_length=100)] = ()
    segments: Segments | None = None
    answers: Answers = Answers()
    events: Annotated[tuple[ShortEvent, ...], Field(max_length=20)] = ()
    rollout: Rollout | None = None
    slices: Annotated[int, Field(ge=GROUPS, le=100, strict=True)] = 50
    ranges: dict[str, tuple[tuple[StrictInt, StrictInt], ...]] | None = None

    @property
    def hash_salt(self) -> str:
        """What units are hashed with: the secret salt, the salt, or the name if neither is given.

        Raises:
            SecretError: the salt is secret, and this process has not read it.
        """
        return self.public_salt if self.secret_salt is None else self.secret_salt.value

    @property
    def public_salt(self) -> str:
        """The salt as far as anybody may know it: the name if the salt is secret or none is given."""
        return self.salt or self.label

    @property
    def label(self) -> str:
        """The name without the namespace that it has before it in a cluster."""
        return self.name.rpartition("/")[2]

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
        """The buckets of each variant at its current weight."""
        if self.ranges is None:
            return bucketing.initial_ranges(self.weights)
        return bucketing.reallocate(self.ranges, self.weights)

    @cached_property
    def cells(self) -> tuple[bucketing.Cell, ...]:
        """Variant, slice and group of every bucket."""
        return bucketing.cells(self.effective_ranges, self.slices)

    @cached_property
    def prices(self) -> dict[str, Price]:
        """Prices by variant; variants without a price are left out."""
        return {variant.name: variant.price for variant in self.variants if variant.price is not None}

    @cached_property
    def metrics(self) -> dict[str, metrics.Metric]:
        """The metrics that guardrails and the goal may use."""
        return metrics.available(
            (event.name for event in self.events),
            self._valued,
            priced=all(variant.price is not None for variant in self.variants),
            sessions=self.issue_cookie is not None,
        )

    @property
    def _valued(self) -> tuple[str, ...]:
        """The events that may carry a value."""
        return tuple(event.name for event in self.events if event.value is not None)

    @property
    def counts_continuation(self) -> bool:
        """Whether ``continuation`` is one of the events."""
        return any(event.name == metrics.CONTINUATION for event in self.events)

    def at(self, weights: bucketing.Weights, ranges: bucketing.Ranges | None) -> Experiment:
        """The same experiment at other weights.

        Not by ``model_copy``, which would keep what was computed from the old ones.

        Args:
            weights: basis points by variant, of all variants, summing to 10,000.
            ranges: the buckets of each variant; None for those that the weights give by themselves.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set} | {"ranges": ranges}
        given["variants"] = tuple(item.model_copy(update={"weight": weights[item.name]}) for item in self.variants)
        return Experiment.model_construct(**given)

    def variant(self, name: str) -> Variant:
        """The variant with a name.

        Raises:
            UnknownName: the experiment has no variant with that name.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise UnknownName("variant", name, tuple(self.weights))

    @field_validator("name")
    @classmethod
    def _bare_in_a_file(cls, value: str, info: ValidationInfo) -> str:
        if "/" in value and form_of(info) == "file":
            message = "only an experiment in a cluster has a namespace in its name"
            raise refuse(message, found=value, allowed=LABEL_FORM)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        raise_all([*self._variants(), *self._identity(), *self._references(), *self._ranges_cover()])
        return self

    def _variants(self) -> Iterator[PydanticCustomError]:
        yield from repeated((variant.name for variant in self.variants), "variant", "variants", field="name")
        controls = [variant.name for variant in self.variants if variant.control]
        if len(controls) != 1:
            found = ", ".join(controls) or "none"
            yield refuse(
                "exactly one variant must be the control", "variants", found=found, allowed="control: true on one"
            )
        if pair := shared_place(self.name, self.weights):
            message = (
                f"{pair[0]} and {pair[1]} would share a position on Envoy's routes, which one name in millions does"
            )
            yield refuse(message, "variants", found=pair[1], allowed="another name")
        total = sum(variant.weight for variant in self.variants)
        if total != BUCKETS:
            found = " + ".join(format_weight(v.weight) for v in self.variants) + f" = {format_weight(total)}"
            yield refuse("weights must sum to exactly 100", "variants", found=found, allowed="100")

    def _identity(self) -> Iterator[PydanticCustomError]:
        if self.salt and self.secret_salt:
            yield refuse("there is a secret salt already", "salt", allowed="either salt or secret_salt")
        yield from repeated((unit.label for unit in self.unit), "unit", "unit")
        cookies = [unit.cookie for unit in self.unit if unit.cookie]
        if self.issue_cookie and self.issue_cookie.name not in cookies:
            message = "the issued cookie must be listed under unit, or its holder would not be recognised"
            found, allowed = self.issue_cookie.name, ", ".join(cookies) or "a cookie listed under unit"
            yield refuse(message, "issue_cookie", "name", found=found, allowed=allowed)
        yield from repeated((event.name for event in self.events), "event", "events", field="name")
        if self.issue_cookie is None and self.counts_continuation:
            place = [event.name for event in self.events].index(metrics.CONTINUATION)
            message = f"{metrics.CONTINUATION} counts sessions, and only an issued cookie makes a session"
            yield refuse(message, "events", place, found=metrics.CONTINUATION, allowed="only with issue_cookie")
        elif self.issue_cookie and self.counts_continuation and len(self.issue_cookie.marker) > LONGEST_TOKEN:
            longest = LONGEST_TOKEN - len(CONTINUED_ENDING)
            message = f"too long for {metrics.CONTINUATION}, which adds a cookie whose name ends in {CONTINUED_ENDING}"
            yield refuse(message, "issue_cookie", "name", allowed=f"at most {longest} characters")

    def _references(self) -> Iterator[PydanticCustomError]:
        names = tuple(variant.name for variant in self.variants)
        for index, override in enumerate(self.overrides):
            if override.variant not in names:
                place = ("overrides", index, "variant")
                yield refuse("unknown variant", *place, found=override.variant, allowed=", ".join(names))
        if self.rollout is None:
            return
        others = tuple(variant.name for variant in self.variants if not variant.control)
        if self.rollout.candidate not in others:
            message = "the candidate must be a variant that is not the control"
            found, allowed = self.rollout.candidate, ", ".join(others)
            yield refuse(message, "rollout", "candidate", found=found, allowed=allowed)
        yield from self._metrics_measured(self.rollout)
        yield from self._segments_declared(self.rollout)

    def _metrics_measured(self, rollout: Rollout) -> Iterator[PydanticCustomError]:
        """Refuse metrics for which this experiment lacks a declaration."""
        named: list[tuple[tuple[str | int, ...], str]] = [
            (("guardrails", place, "metric"), rail.metric) for place, rail in enumerate(rollout.guardrails)
        ]
        if rollout.goal is not None:
            named.append((("goal", "metric"), rollout.goal.metric))
        named += [
            (("secondary_goals", place, "metric"), goal.metric) for place, goal in enumerate(rollout.secondary_goals)
        ]
        events = [event.name for event in self.events]
        for place, metric in named:
            if metric in self.metrics:
                continue
            message = f"this experiment does not measure it: {missing_for(metric, events, self._valued)}"
            event = metrics.event_of(metric)
            if event and event not in events:
                message = did_you_mean(message, metric, self.metrics)
            yield refuse(message, "rollout", *place, found=metric, allowed=", ".join(self.metrics))

    def _segments_declared(self, rollout: Rollout) -> Iterator[PydanticCustomError]:
        """Refuse guardrails on segments that nobody is ever in."""
        known = () if self.segments is None else (*self.segments.values, OTHER_SEGMENT)
        for index, rail in enumerate(rollout.guardrails):
            if rail.segment is None or rail.segment in known:
                continue
            message = "this experiment declares no segments"
            if known:
                message = did_you_mean("not a segment of this experiment", rail.segment, known)
            place = ("rollout", "guardrails", index, "segment")
            yield refuse(message, *place, found=rail.segment, allowed=", ".join(known) or "only with segments")

    def _ranges_cover(self) -> Iterator[PydanticCustomError]:
        if self.ranges is None:
            return
        message = "ranges must cover every bucket once"
        position = 0
        for start, stop in sorted(part for parts in self.ranges.values() for part in parts):
            if start != position or stop <= start:
                found, allowed = f"[{start}, {stop}]", f"ranges that continue at {position} and end at {BUCKETS}"
                yield refuse(message, "ranges", found=found, allowed=allowed)
                return
            position = stop
        if position != BUCKETS:
            yield refuse(message, "ranges", found=f"an end at {position}", allowed=f"an end at {BUCKETS}")


class Document(Frozen):
    """The whole of ``experiments.yaml``.

    Attributes:
        version: of the document's format.
        clusters: where the upstreams are, for ``abmesh render envoy``. Not needed under Istio, which knows them.
        default_cluster: where ``abmesh render envoy`` sends requests that match no experiment; none means 404.
        event_origins: web origins whose pages may send events from another site.
        journal: how large the controller's journal may become.
        experiments: the first that matches a request wins.
    """

    version: Literal[1]
    clusters: dict[ClusterName, Cluster] | None = None
    default_cluster: ClusterName | None = None
    event_origins: Annotated[tuple[Origin, ...], Field(max_length=100)] = ()
    journal: JournalBound = JournalBound()
    experiments: Annotated[tuple[Experiment, ...], Field(max_length=1000)]

    def experiment(self, name: str) -> Experiment:
        """The experiment with a name.

        Raises:
            UnknownName: the document has no experiment with that name.
        """
        for experiment in self.experiments:
            if experiment.name == name:
                return experiment
        raise UnknownName("experiment", name, tuple(experiment.name for experiment in self.experiments))

    @field_validator("version", mode="before")
    @classmethod
    def _known_version(cls, value: object) -> object:
        if type(value) is not int or value != 1:
            raise refuse("this abmesh cannot read this version of the document", allowed="1")
        return value

    @field_validator("event_origins")
    @classmethod
    def _as_browsers_send_them(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for place, origin in enumerate(origins):
            usual = next((port for scheme, port in USUAL_PORTS if origin.startswith(scheme)), "")
            if usual and origin.endswith(usual):
                message = "browsers leave the default port out of an origin"
                raise refuse(message, place, found=origin, allowed=origin.removesuffix(usual))
        return origins

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        cookies = [
            Cookies(item.name, item.unit, item.issue_cookie, item.counts_continuation) for item in self.experiments
        ]
        raise_all([*self._names(), *cookie_problems(cookies), *self._clusters_known()])
        return self

    def _names(self) -> Iterator[PydanticCustomError]:
        yield from repeated((item.name for item in self.experiments), "experiment", "experiments", field="name")
        yield from repeated(self.event_origins, "origin", "event_origins")

    def _clusters_known(self) -> Iterator[PydanticCustomError]:
        if self.clusters is None:
            return
        if EXT_PROC_CLUSTER in self.clusters:
            message = "this is the name of the cluster of abmesh's own server"
            yield refuse(message, "clusters", EXT_PROC_CLUSTER, found=EXT_PROC_CLUSTER, allowed="any other name")
        known = ", ".join(self.clusters) or "none"
        for index, item in enumerate(self.experiments):
            for place, variant in enumerate(item.variants):
                if variant.cluster not in self.clusters:
                    path = ("experiments", index, "variants", place, "cluster")
                    yield refuse("unknown cluster", *path, found=variant.cluster, allowed=known)
        if self.default_cluster is not None and self.default_cluster not in self.clusters:
            yield refuse("unknown cluster", "default_cluster", found=self.default_cluster, allowed=known)

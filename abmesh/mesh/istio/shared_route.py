"""One rule at the proxies of a scope, with all Experiments that share it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from abmesh.experiment.model import Experiment
from abmesh.experiment.places import place_of
from abmesh.mesh.istio.find import Found, Target
from abmesh.mesh.istio.native_lane import check_alone, native_note
from abmesh.mesh.istio.refusals import About, Note, Reason, RefusedError
from abmesh.mesh.istio.scopes import Scope
from abmesh.mesh.istio.wanted import Placed
from abmesh.mesh.merge.check import Destination
from abmesh.mesh.merge.pieces import Unassigned


@dataclass(frozen=True, slots=True)
class SharedRoute:
    """A rule and its Experiments.

    Attributes:
        scope: the proxies.
        found: the rule.
        own: where it leads by itself, for each virtual host.
        placed: its Experiments, in the order in which they match.
    """

    scope: Scope
    found: Found
    own: Mapping[Target, Destination]
    placed: tuple[Placed, ...] = ()

    @property
    def experiments(self) -> list[Experiment]:
        """Its Experiments."""
        return [item.experiment for item in self.placed]

    @property
    def unassigned(self) -> Unassigned:
        """Where requests without a variant go."""
        if any(item.lane == "native" for item in self.experiments):
            return Unassigned.CONTROL
        chosen = [item.unassigned for item in self.placed if item.unassigned is not None]
        if chosen:
            return chosen[0]
        return Unassigned.CONTROL if any(self._candidates()) else Unassigned.ROUTE

    @property
    def clusters(self) -> set[str]:
        """The clusters that it leads to, with and without us."""
        return self._own_clusters() | {variant.cluster for item in self.experiments for variant in item.variants}

    def _own_clusters(self) -> set[str]:
        return {cluster for shares in self.own.values() for cluster, _ in shares.shares}

    def joined(self, placed: Placed, own: Mapping[Target, Destination]) -> SharedRoute:
        """With one more Experiment, which matches after those that are there.

        Raises:
            RefusedError: it disagrees with one that is there.
        """
        for other in self.placed:
            check_alone(placed.experiment, other.experiment, self.found)
            self._check_places(placed.experiment, other.experiment)
            if None not in (placed.unassigned, other.unassigned) and placed.unassigned != other.unassigned:
                raise RefusedError(
                    Reason.UNASSIGNED_CONFLICT,
                    f"{self.found.ref}: the Experiment {other.experiment.name} has unassigned: {other.unassigned}, so "
                    f"this one cannot have unassigned: {placed.unassigned}",
                )
        made = replace(self, own={**self.own, **own}, placed=(*self.placed, placed))
        controls = {experiment.control.cluster: experiment.name for experiment in made.experiments}
        if made.unassigned is Unassigned.CONTROL and len(controls) > 1:
            shown = ", ".join(f"{name}: {cluster}" for cluster, name in controls.items())
            raise RefusedError(
                Reason.UNASSIGNED_CONFLICT,
                f"{self.found.ref}: the controls of its Experiments are on different clusters ({shown}), so requests "
                "without a variant cannot go to the control; use unassigned: route in all of them",
            )
        return made

    def _check_places(self, one: Experiment, other: Experiment) -> None:
        taken = {place_of(other.name, variant.name): variant.name for variant in other.variants}
        for variant in one.variants:
            if (place := place_of(one.name, variant.name)) in taken:
                raise RefusedError(
                    Reason.PLACE_CLASH,
                    f"{self.found.ref}: the variant {variant.name!r} would share a position with {taken[place]!r} of "
                    f"the Experiment {other.name}; rename this variant",
                )

    def _candidates(self) -> Iterator[tuple[str, str]]:
        """Experiments and their variants other than the control to which the route itself leads."""
        own = self._own_clusters()
        for experiment in self.experiments:
            for variant in experiment.variants:
                if variant.cluster in own and variant.cluster != experiment.control.cluster:
                    yield experiment.name, variant.name

    def notes(self) -> Iterator[Note]:
        """What a person should know."""
        label = self.found.ref.label
        for name, variant in self._candidates():
            went = (
                "requests without a variant go to the control instead (unassigned: control)"
                if self.unassigned is Unassigned.CONTROL
                else "they keep its split (unassigned: route), so a rollback leaves a part of them there"
            )
            yield Note(name, About.CANDIDATE_ON_ROUTE, f"{self.found.ref} itself leads to {variant!r}: {went}", label)
        own = self._own_clusters()
        for experiment in self.experiments:
            if experiment.control.cluster not in own:
                yield Note(
                    experiment.name,
                    About.CONTROL_NOT_ON_ROUTE,
                    f"{self.found.ref} does not lead to the control, {experiment.control.name!r}, by itself",
                    label,
                )
            if experiment.lane == "native":
                yield Note(experiment.name, About.NATIVE_LANE, native_note(experiment), label)
            yield from self._elsewhere(experiment, label)

    def _elsewhere(self, experiment: Experiment, label: str) -> Iterator[Note]:
        """Other rules of the host that lead to a variant: they are not ours, and stay as they are after a rollback."""
        hosts = {
            tuple(variant.cluster.split("|")[2:]): variant.name
            for variant in experiment.variants
            if variant.cluster != experiment.control.cluster
        }
        for other in self.found.others:
            for item in other.rule.active:
                variant = hosts.get((item.subset, item.host))
                if variant is None:
                    continue
                name = f"rule {other.rule.name!r}" if other.rule.name else f"rule {other.index}"
                yield Note(
                    experiment.name,
                    About.CANDIDATE_ON_ROUTE,
                    f"{name} of {other.owner.kind} {other.owner.namespace}/{other.owner.name} leads to {variant!r} "
                    "too, and stays so after a rollback",
                    label,
                )

"""The Experiments of a cluster as the experiments document: those that can be served, each with its weights in force.

One that cannot be used never touches another: it is left out and named with its reason. Implements
:class:`controller.state.documents.Documents`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from abmesh.experiment.errors import AbmeshError, Conflict, DocumentError, SecretError, StoreError
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.secrets import read_salts
from abmesh.experiment.store import Snapshot
from abmesh.kube.client import Client
from abmesh.kube.errors import KubeError, Stale
from abmesh.kube.generation import experiment_digest, generation_of
from abmesh.kube.in_force import experiment_in_force
from abmesh.kube.salts import checked_digest
from abmesh.kube.status import percentages
from controller.cluster.lease import Fence
from controller.cluster.names import full_name
from controller.cluster.objects import Experiments, Thing, in_words, patch_status
from controller.cluster.status import difference, spec_weights, status_of, weight_fields

SALT_CHANGED: Final = "SaltChanged"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an Experiment is not accepted.

    Attributes:
        field: the first field that is at fault; empty for the whole.
        message: all that is wrong, in words.
        reason: the same as one word, for conditions.
    """

    field: str
    message: str
    reason: str = "Invalid"


class ClusterDocuments:
    """Reads Experiments.

    Args:
        client: writes weights.
        experiments: as they are now.
        fence: this process's right to write.
    """

    def __init__(self, client: Client, experiments: Experiments, fence: Fence) -> None:
        self._client = client
        self._experiments = experiments
        self._fence = fence
        self._salts: dict[str, str | Refusal] = {}
        self._made: dict[str, tuple[object, Experiment | Refusal]] = {}
        self._last: tuple[object, tuple[Snapshot, dict[str, Refusal]]] | None = None

    def read(self) -> Snapshot:
        """The Experiments that can be served, in the order of their creation.

        Raises:
            StoreError: the Experiments are not known yet.
        """
        return self._accepted()[0]

    def refusals(self) -> dict[str, Refusal]:
        """Why the others cannot.

        Raises:
            StoreError: the Experiments are not known yet.
        """
        return self._accepted()[1]

    def salt_digest(self, name: str) -> str:
        """The digest of an Experiment's secret salt, as this process read it last; empty if it has none."""
        found = self._salts.get(name, "")
        return found if isinstance(found, str) else ""

    def write_weights(
        self,
        experiment: str,
        weights: Mapping[str, int],
        *,
        based_on: int,
        urgent: bool = False,  # noqa: ARG002 - the interface has it
    ) -> Snapshot:
        """Put weights in force without a change of the state, for a rollback whose state cannot be read.

        Raises:
            Conflict: an Experiment has changed since the snapshot of that generation.
            StateError: this process does not lead.
            StoreError: the API server did not take it.
        """
        self._fence.check()
        snapshot = self.read()
        thing = self._experiments.known(experiment)
        if snapshot.generation != based_on or thing is None:
            raise Conflict(f"the Experiments have changed since {experiment} was looked at; decide again")
        present = snapshot.document.experiment(experiment)
        after = with_weights(present, weights)
        status = status_of(thing)
        wanted = {**status, **weight_fields(after, after.weights, after.effective_ranges)}
        wanted["lastSeenSpecWeights"] = seen(thing)
        try:
            patch = difference(status, wanted)
            self._experiments.note(patch_status(self._client, thing, patch, leader=self._fence.stamp))
        except Stale as error:
            raise Conflict(str(error)) from error
        except KubeError as error:
            raise StoreError(in_words(error)) from error
        return self.read()

    def _accepted(self) -> tuple[Snapshot, dict[str, Refusal]]:
        things = self._experiments.all()
        made = {name: self._one(name, thing) for name, thing in things.items()}
        # Mounted files change without an event.
        salts = {name: _salt(item, things[name]) for name, item in made.items() if _is_salted(item)}
        key = (tuple((name, _key(thing)) for name, thing in things.items()), salts)
        if self._last is None or self._last[0] != key:
            self._made = {name: known for name, known in self._made.items() if name in things}
            made |= {name: found for name, found in salts.items() if isinstance(found, Refusal)}
            self._salts = salts
            self._last = key, _sorted_out(made, things)
        return self._last[1]

    def _one(self, name: str, thing: Thing) -> Experiment | Refusal:
        key = _key(thing)
        known = self._made.get(name)
        if known is None or known[0] != key:
            known = self._made[name] = (key, _made(thing))
        return known[1]


def document_of(things: Mapping[str, Thing]) -> tuple[Snapshot, dict[str, Refusal]]:
    """The Experiments that can be served, as a document, and why the others cannot.

    Args:
        things: by name, in the order of their creation.
    """
    return _sorted_out({name: _made(thing) for name, thing in things.items()}, things)


def generation(document: Document, things: Mapping[str, Thing]) -> int:
    """Identifies what is served, as servers tell it."""
    digests: dict[str, int] = {}
    for item in document.experiments:
        metadata = things[item.name]["metadata"]
        number = int(metadata.get("generation", 0))
        digests[item.name] = experiment_digest(str(metadata["uid"]), item.name, number, item.effective_ranges)
    return generation_of(digests)


def with_weights(experiment: Experiment, weights: Mapping[str, int]) -> Experiment:
    """An experiment with other weights, and buckets that fit them with the fewest moves."""
    variants = tuple(item.model_copy(update={"weight": weights[item.name]}) for item in experiment.variants)
    return experiment.model_copy(update={"variants": variants, "ranges": experiment.effective_ranges})


def seen(thing: Thing) -> dict[str, float]:
    """The spec's weights as ``lastSeenSpecWeights`` keeps them."""
    return percentages(spec_weights(thing))


def _sorted_out(
    made: Mapping[str, Experiment | Refusal], things: Mapping[str, Thing]
) -> tuple[Snapshot, dict[str, Refusal]]:
    good = {name: item for name, item in made.items() if isinstance(item, Experiment)}
    refused = {name: item for name, item in made.items() if isinstance(item, Refusal)}
    document, clashes = _together(good)
    return Snapshot(document, "", generation(document, things)), {**refused, **clashes}


def _made(thing: Thing) -> Experiment | Refusal:
    try:
        return experiment_in_force(thing)
    except DocumentError as error:
        return Refusal(error.problems[0].path if error.problems else "", _words(error))
    except AbmeshError as error:
        return Refusal("", str(error))
    except (KeyError, TypeError, ValueError) as error:  # what the schema of an older CRD let through
        return Refusal("", f"{full_name(thing)} cannot be read: {error!r}")


def _is_salted(item: Experiment | Refusal) -> bool:
    return isinstance(item, Experiment) and item.secret_salt is not None


def _salt(item: Experiment | Refusal, thing: Thing) -> str | Refusal:
    """The digest of an Experiment's secret salt, or why it cannot be used. The salt itself is not kept."""
    assert isinstance(item, Experiment)
    try:
        (found,) = read_salts(Document.model_construct(version=1, experiments=(item,)), lambda _: True).experiments
    except SecretError as error:
        return Refusal("saltFile", str(error), "SaltUnreadable")
    try:
        return checked_digest(found, status_of(thing))
    except SecretError as error:
        return Refusal("saltFile", str(error), SALT_CHANGED)


def _together(good: Mapping[str, Experiment]) -> tuple[Document, dict[str, Refusal]]:
    """The document of all that can be served together, and why others, younger ones, cannot."""
    try:
        return Document(version=1, experiments=tuple(good.values())), {}
    except ValueError:
        pass
    document, refused = Document(version=1, experiments=()), {}
    for name, experiment in good.items():
        try:
            document = Document(version=1, experiments=(*document.experiments, experiment))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False)
            refused[name] = Refusal("", "; ".join(str(item["msg"]) for item in problems))
    return document, refused


def _key(thing: Thing) -> tuple[object, object]:
    return thing["metadata"].get("uid"), thing["metadata"].get("resourceVersion")


def _words(error: DocumentError) -> str:
    return "; ".join(
        f"{problem.path}: {problem.message}" if problem.path else problem.message for problem in error.problems
    )

"""A document and a state folder, as commands see them. Implements :class:`controller.rollout.place.Place`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from abmesh.experiment.errors import SettingsError
from abmesh.experiment.model import Experiment
from abmesh.experiment.secrets import read_salts
from abmesh.experiment.store import FileStore, Snapshot, format_generation
from abmesh.experiment.weights import complete
from controller.rollout import commands
from controller.rollout.place import Ask, Done
from controller.settings import Settings
from controller.state.evidence import EvidenceStore
from controller.state.lease import Leader, leader
from controller.state.renderings import read_renderings
from controller.state.states import States, StateStore


class Files:
    """Reads, and asks by the same commit as the controller's.

    Args:
        settings: document and state folder.
    """

    shortened = "older files of the journal were removed: `journal: {keep: N}` keeps more"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.evidence = EvidenceStore(settings.state_folder)

    def name(self, experiment: str) -> str:
        """See :meth:`controller.rollout.place.Place.name`."""
        return experiment

    def snapshot(self) -> Snapshot:
        """See :meth:`controller.rollout.place.Place.snapshot`."""
        return FileStore(self._settings.config).read()

    def experiment(self, name: str, *, salt: bool = False) -> Experiment:
        """See :meth:`controller.rollout.place.Place.experiment`."""
        config = self._settings.config
        if not salt:
            return FileStore(config).read().document.experiment(name)
        store = FileStore(config, secrets=lambda document: read_salts(document, lambda item: item.name == name))
        return store.read().document.experiment(name)

    def states(self) -> States:
        """See :meth:`controller.rollout.place.Place.states`."""
        return StateStore(self._settings.state_folder).read()

    def leader(self) -> Leader | None:
        """See :meth:`controller.rollout.place.Place.leader`."""
        return leader(self._settings.state_folder)

    def renderings(self) -> Mapping[str, Mapping[str, str] | None]:
        """See :meth:`controller.rollout.place.Place.renderings`."""
        return read_renderings(self._settings.state_folder)

    def failure(self, experiment: str) -> str:  # noqa: ARG002 - the interface has it
        """Nothing: the leader's heartbeat says it."""
        return ""

    def notes(self, experiment: str) -> tuple[str, ...]:  # noqa: ARG002 - the interface has it
        """None."""
        return ()

    def journal(self, experiment: str | None) -> Path:  # noqa: ARG002 - the interface has it
        """The path of the one journal of all experiments."""
        return self._settings.journal_path

    def journal_name(self, experiment: str) -> str:  # noqa: ARG002 - the interface has it
        """The same in words."""
        return str(self._settings.journal_path)

    def kept_of(self, experiment: str | None) -> list[str]:
        """See :meth:`controller.rollout.place.Place.kept_of`."""
        return self.evidence.names() if experiment is None else [experiment]

    def carry_out(self, ask: Ask) -> Done:
        """See :meth:`controller.rollout.place.Place.carry_out`."""
        settings, name, by, note, confirm = self._settings, ask.experiment, ask.by, ask.note, ask.confirm
        match ask.action:
            case "pause":
                entry = commands.pause(settings, name, by=by, note=note)
            case "rollback":
                entry = commands.rollback(settings, name, by=by, note=note)
            case "resume":
                entry = commands.resume(settings, name, by=by, note=note, confirm=confirm)
            case "promote":
                entry = commands.promote(settings, name, full=not ask.step, by=by, note=note, confirm=confirm)
        return Done(entry.experiment, entry.reason, entry.weights_before, entry.weights_after, entry.generation)

    def set_weights(
        self,
        experiment: str,
        named: Mapping[str, int],
        *,
        by: str,  # noqa: ARG002 - a document does not keep it
        based_on: str | None,
    ) -> Done:
        """Write them into the document."""
        before: dict[str, int] = {}

        def change(snapshot: Snapshot) -> dict[str, int]:
            found = snapshot.document.experiment(experiment)
            before.update(found.weights)
            return complete(found.weights, found.control.name, named)

        store = FileStore(self._settings.config)
        if based_on is None:
            written = store.update_weights(experiment, change)
        else:
            snapshot = store.read()
            try:
                generation = int(based_on, 16)
            except ValueError:
                raise SettingsError(f"{based_on!r} is not a generation; see `abmesh validate`") from None
            written = store.write_weights(experiment, change(snapshot), based_on=generation)
        after = written.document.experiment(experiment).weights
        return Done(experiment, "", before, after, format_generation(written.generation))

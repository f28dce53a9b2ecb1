"""The experiments file as the place where weights go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from experiment.store import FileStore, Snapshot


class FileSink:
    """``experiments.yaml``, with the store's compare-and-swap."""

    def __init__(self, path: Path) -> None:
        self._store = FileStore(path)

    def read(self) -> Snapshot:
        """The document as it is now; see :class:`controller.sinks.base.Sink`."""
        return self._store.read()

    def write_weights(self, experiment: str, weights: Mapping[str, int], *, based_on: int) -> Snapshot:
        """Write an experiment's weights; see :class:`controller.sinks.base.Sink`."""
        return self._store.write_weights(experiment, weights, based_on=based_on)

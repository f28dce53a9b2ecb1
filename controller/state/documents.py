"""The interface to the store of the experiments document, implemented by :class:`abmesh.experiment.store.FileStore`.

Used by :mod:`controller.rollout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from abmesh.experiment.store import Snapshot


class Documents(Protocol):
    """Reads the document and writes weights into it."""

    def read(self) -> Snapshot:
        """Read the current document.

        Raises:
            DocumentError: it is refused.
            StoreError: it cannot be read.
        """

    def write_weights(
        self, experiment: str, weights: Mapping[str, int], *, based_on: int, urgent: bool = False
    ) -> Snapshot:
        """Write an experiment's weights and nothing else.

        Args:
            experiment: name of the experiment.
            weights: basis points of every variant.
            based_on: the generation that the document must still have.
            urgent: whether to do it without the document's lock, if another process keeps that.

        Returns:
            The document as written.

        Raises:
            Conflict: the document has another generation; nothing was written.
            DocumentError, UnknownName, WeightsError: the document would not be valid; nothing was written.
            StoreError: it cannot be written.
        """

"""The port to wherever the experiments document is kept. :class:`abmesh.experiment.store.FileStore` is one.

Used by :mod:`controller.rollout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from abmesh.experiment.store import Snapshot


class Documents(Protocol):
    """Reads the document and writes weights into it."""

    def read(self) -> Snapshot:
        """The document as it is now.

        Raises:
            DocumentError: it is refused.
            StoreError: it cannot be read.
        """

    def write_weights(self, experiment: str, weights: Mapping[str, int], *, based_on: int) -> Snapshot:
        """Write an experiment's weights and nothing else.

        Args:
            experiment: its name.
            weights: basis points of every variant.
            based_on: the generation that must still be the present one.

        Returns:
            The document as written.

        Raises:
            Conflict: the document has changed since; nothing was written.
            DocumentError, UnknownName, WeightsError: the document would not be valid; nothing was written.
            StoreError: it cannot be written.
        """

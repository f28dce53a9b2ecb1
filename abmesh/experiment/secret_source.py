"""Where a secret of the document is: in a file or in an environment variable, never in the document. Pure.

:mod:`abmesh.experiment.secrets` reads the secrets; the models only carry them.
"""

from __future__ import annotations

from typing import Self

from pydantic import PrivateAttr, model_validator

from abmesh.experiment.errors import SecretError
from abmesh.experiment.fields import EnvironmentName, SecretFile
from abmesh.experiment.validation import Frozen, refuse


class SecretSource(Frozen):
    """Where a process finds a secret; exactly one of the two. The document never holds the secret itself.

    Attributes:
        file: absolute path of a file that holds the secret on one line.
        env: name of an environment variable that holds it.
    """

    file: SecretFile | None = None
    env: EnvironmentName | None = None

    # Private, so that no dump, journal, message, digest or comparison of the fields can hold it.
    _value: str = PrivateAttr(default="")

    @property
    def label(self) -> str:
        """The source in words: ``file /run/secrets/salt``."""
        return " ".join(f"{kind} {name}" for kind, name in self.model_dump(exclude_none=True).items())

    @property
    def value(self) -> str:
        """The secret.

        Raises:
            SecretError: it has not been read.
        """
        if not self._value:
            raise SecretError(f"the secret in {self.label} has not been read; this is a bug in abmesh")
        return self._value

    @property
    def is_read(self) -> bool:
        """Whether the secret has been read."""
        return bool(self._value)

    def holding(self, value: str) -> SecretSource:
        """The same source, with its secret."""
        copy = self.model_copy()
        copy._value = value
        return copy

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = sorted(self.model_fields_set)
        if len(given) != 1 or getattr(self, given[0]) is None:
            raise refuse("needs exactly one source", found=", ".join(given) or "none", allowed="file or env")
        return self

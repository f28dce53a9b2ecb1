"""What a kubeconfig says of its user that the official client leaves out: a token in a file, and as whom to act.

:mod:`abmesh.kube.connection` uses it. Both follow kubectl: the token's file wins over a token beside it and is read
again for every request, since tokens are replaced; groups, a uid or extras without a user to act as are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from abmesh.kube.errors import NotConfigured, Unauthorized, cause

Headers = Sequence[tuple[str, str]]
"""Headers of a request, in small letters; one that has several values stands there several times."""

_AS: Final = "as"
_NEED_A_USER: Final = ("as-uid", "as-groups", "as-user-extra")


@dataclass(frozen=True, slots=True)
class User:
    """One user of a kubeconfig.

    Attributes:
        acting_as: headers that ask the API server to take the requests for somebody else's; empty for nobody else's.
        token_file: that holds the token; None if there is none.
    """

    acting_as: Headers
    token_file: Path | None

    def headers(self, given: str | None) -> Headers:
        """What authenticates a request made now.

        Args:
            given: the value of ``authorization`` where there is no file; None for none.

        Raises:
            Unauthorized: the token's file cannot be read.
        """
        value = given if self.token_file is None else _bearer(self.token_file)
        return [*([] if value is None else [("authorization", value)]), *self.acting_as]


NOBODY: Final = User((), None)


def user_of(entry: Mapping[str, Any], folder: Path) -> User:
    """The user of an entry in ``users``.

    Args:
        entry: its ``user``.
        folder: of the kubeconfig that has it; paths in it start there.

    Raises:
        NotConfigured: it has groups, a uid or extras to act with, and nobody to act as.
    """
    name = entry.get(_AS)
    if not name:
        if alone := [field for field in _NEED_A_USER if entry.get(field)]:
            raise NotConfigured(f"{alone[0]} needs `{_AS}`, the user to act as")
        acting: list[tuple[str, str]] = []
    else:
        acting = [("impersonate-user", str(name))]
        if entry.get("as-uid"):
            acting.append(("impersonate-uid", str(entry["as-uid"])))
        acting += [("impersonate-group", str(group)) for group in entry.get("as-groups") or ()]
        for key, values in (entry.get("as-user-extra") or {}).items():
            acting += [(f"impersonate-extra-{quote(str(key), safe='')}".lower(), str(value)) for value in values]
    file = entry.get("tokenFile")
    return User(acting, Path(os.path.normpath(folder / str(file))) if file else None)


def _bearer(file: Path) -> str:
    """The value of ``authorization`` by a token that a file holds now.

    Raises:
        Unauthorized: it cannot be read, or is empty.
    """
    try:
        token = file.read_text().strip()
    except (OSError, ValueError) as error:
        raise Unauthorized(f"cannot read the token: {cause(error)}") from error
    if not token:
        raise Unauthorized(f"cannot read the token: {file} is empty")
    return f"Bearer {token}"

"""What the API server can answer other than what was asked for. Pure.

    KubeError               any answer that is not a success; status and reason are the API server's own
    ├── NotConfigured       there is no way to an API server: no service account, no kubeconfig
    ├── Unreachable         no answer, or one that asks to try again: refused, timed out, 429, 5xx
    ├── Unauthorized        401: the credentials are not, or no longer, valid
    ├── Forbidden           403: which right is missing, or which admission rule refused it
    ├── Missing             404: no such object, or no such kind in this cluster
    ├── AlreadyExists       409: to be created, but there
    ├── Stale               409: the object has changed since it was read, or somebody else owns the field
    ├── Gone                410: a list or watch cannot go on from there; list again
    └── Refused             400, 422 and the like: the object or the request is wrong, in the API server's words

:mod:`abmesh.kube.client` and :mod:`abmesh.kube.watching` raise them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from abmesh.experiment.errors import AbmeshError
from abmesh.text import quoted

_LONGEST_MESSAGE: Final = 2_000
_TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was asked of the API server, for messages.

    Attributes:
        verb: as roles name it: get, list, watch, create, update, patch, delete.
        resource: ``experiments.abmesh.dev``, with the subresource if there is one: ``experiments.abmesh.dev/status``.
        namespace: empty for all namespaces, or a resource without.
        name: of the object; empty for a list.
    """

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        place = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{f' {self.name}' if self.name else ''}{place}"


class KubeError(AbmeshError):
    """The API server did not do what was asked.

    Attributes:
        status: the HTTP status; 0 if there was no answer.
        reason: the API server's word for it, such as ``NotFound``; empty if it gave none.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class NotConfigured(KubeError):  # noqa: N818 - the names say what happened
    """There is no way to an API server; the message says what is missing and where it was looked for."""


class Unreachable(KubeError):  # noqa: N818
    """No answer, or one that asks to try again later. Whether a write was carried out is not known."""


class Unauthorized(KubeError):  # noqa: N818
    """The credentials are not, or no longer, valid."""


class Forbidden(KubeError):  # noqa: N818
    """A right is missing, or an admission rule refused the write.

    Attributes:
        attempt: what was asked: its verb, resource and namespace are the right that is missing.
    """

    def __init__(self, message: str, attempt: Attempt, *, reason: str = "Forbidden") -> None:
        super().__init__(message, status=403, reason=reason)
        self.attempt = attempt


class Missing(KubeError):  # noqa: N818
    """No such object, or no such kind of objects in this cluster."""


class AlreadyExists(KubeError):  # noqa: N818
    """An object of that name is there."""


class Stale(KubeError):  # noqa: N818
    """The object has changed since it was read, or another manager owns a field; read it again and decide again."""


class Gone(KubeError):  # noqa: N818
    """A list or a watch cannot go on from where it was; list again."""


class Refused(KubeError):  # noqa: N818
    """The API server finds the request or the object wrong; trying again does not help."""


_UNTYPED: Final = "failed to create typed patch object"
"""How server-side apply refuses a field that it does not know: with 500, though trying again does not help."""

_BY_STATUS: Final[dict[int, type[KubeError]]] = {
    401: Unauthorized,
    404: Missing,
    409: Stale,
    410: Gone,
    _TOO_MANY: Unreachable,
}


def from_answer(attempt: Attempt, status: int, body: bytes) -> KubeError:
    """The error for an answer that is not a success.

    Args:
        attempt: what was asked.
        status: the HTTP status.
        body: a ``Status`` object, or whatever a proxy on the way wrote.
    """
    answer = _status_object(body)
    return from_status(attempt, {**answer, "code": status})


def from_status(attempt: Attempt, answer: dict[str, Any]) -> KubeError:
    """The error for a ``Status`` object, as answers and a watch's ERROR events carry it."""
    code, reason = answer.get("code"), str(answer.get("reason") or "")
    status = code if isinstance(code, int) else 0
    told = str(answer.get("message") or reason or "no reason given")[:_LONGEST_MESSAGE]
    if status == 403:
        # RBAC's own sentence names user, verb, resource and namespace; an admission rule's names the rule.
        return Forbidden(f"may not {attempt}: {told}", attempt, reason=reason or "Forbidden")
    if status == 404 and not attempt.name:
        told += "; the cluster has no such kind: is its CRD installed?"
    found: type[KubeError]
    if status == 500 and _UNTYPED in told:
        found = Refused
    elif status == 409 and reason == "AlreadyExists":
        found = AlreadyExists
    else:
        found = _BY_STATUS.get(status) or (Refused if 400 <= status < 500 else Unreachable)
    return found(f"cannot {attempt}: {told}", status=status, reason=reason)


def _status_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if isinstance(found, dict) and found.get("kind") == "Status":
        return found
    text = body.decode(errors="replace").strip()
    return {"message": quoted(text, 200)} if text else {}


def cause(error: BaseException) -> str:
    """What went wrong before there was any answer, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())[:500] or type(error).__name__

"""Reads the secrets that a document names, from files and environment variables.

Called by the server, by ``abmesh assign`` and by what renders routes: each reads no more secrets than it needs, and all
others work on a document whose secrets were never read. No message holds any part of a secret.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from abmesh.experiment.errors import SecretError
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.parts import IssueCookie
from abmesh.experiment.secret_source import SecretSource

SHORTEST: Final = 32
"""Fewest characters of a secret: 128 bits as hexadecimal digits."""

_LONGEST_FILE: Final = 4096
_SALT: Final = re.compile(rf"[A-Za-z0-9._-]{{{SHORTEST},128}}")
_KEY: Final = re.compile(rf"[\x21-\x7e]{{{SHORTEST},512}}")
_MAKE: Final = "make one with `openssl rand -hex 32`"
_SALT_FORM: Final = f"{SHORTEST} to 128 letters, digits, ., _ and - on one line; {_MAKE}"
_KEY_FORM: Final = f"{SHORTEST} to 512 printable ASCII characters without spaces on one line; {_MAKE}"

_CAUSES: Final = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EISDIR: "a folder, not a file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "a symbolic link that leads back to itself",
}


def read_all(document: Document) -> Document:
    """The document with every secret that it names.

    Raises:
        SecretError: one of them is missing, unreadable or too weak.
    """
    return _replaced(document, lambda item: _with_keys(_with_salt(item)))


def read_salts(document: Document, needed: Callable[[Experiment], bool]) -> Document:
    """The document with the secret salts of the experiments that need theirs.

    Raises:
        SecretError: one of them is missing, unreadable or too weak.
    """
    return _replaced(document, lambda item: _with_salt(item) if needed(item) else item)


def held(document: Document) -> dict[str, str]:
    """Every secret that has been read, by what and where it is: ``chat: secret_salt: file /run/secrets/salt``.

    For comparisons: never show the values.
    """
    found = {}
    for item in document.experiments:
        if item.secret_salt is not None and item.secret_salt.is_read:
            found[_place(item, "secret_salt", item.secret_salt)] = item.secret_salt.value
        for place, key in enumerate(item.issue_cookie.keys if item.issue_cookie else ()):
            if key.is_read:
                found[_place(item, f"issue_cookie.keys[{place}]", key)] = key.value
    return found


def _place(item: Experiment, field: str, source: SecretSource) -> str:
    return f"{item.name}: {field}: {source.label}"


def _replaced(document: Document, change: Callable[[Experiment], Experiment]) -> Document:
    experiments = tuple(change(item) for item in document.experiments)
    if all(new is old for new, old in zip(experiments, document.experiments, strict=True)):
        return document
    return document.model_copy(update={"experiments": experiments})


def _with_salt(item: Experiment) -> Experiment:
    if item.secret_salt is None:
        return item
    value = _read(item.secret_salt, _place(item, "secret_salt", item.secret_salt), _SALT, _SALT_FORM)
    return item.model_copy(update={"secret_salt": item.secret_salt.holding(value)})


def _with_keys(item: Experiment) -> Experiment:
    cookie: IssueCookie | None = item.issue_cookie
    if cookie is None or not cookie.keys:
        return item
    keys = tuple(
        key.holding(_read(key, _place(item, f"issue_cookie.keys[{place}]", key), _KEY, _KEY_FORM))
        for place, key in enumerate(cookie.keys)
    )
    return item.model_copy(update={"issue_cookie": cookie.model_copy(update={"keys": keys})})


def _read(source: SecretSource, where: str, pattern: re.Pattern[str], form: str) -> str:
    if source.file is not None:
        content = _file(Path(source.file), where, form)
    else:
        text = os.environ.get(source.env or "")
        if text is None:
            raise SecretError(f"{where}: no such environment variable in this process; allowed: {form}")
        content = os.fsencode(text)
    written = content.strip(b" \t\r\n").decode("ascii", errors="replace")
    if pattern.fullmatch(written):
        return written
    if not written:
        found = "nothing"
    elif len(written) < SHORTEST:
        found = f"fewer than {SHORTEST} characters, which can be guessed"
    else:
        found = "something that is too long or has other characters"
    raise SecretError(f"{where}: found {found}; allowed: {form}")


def _file(path: Path, where: str, form: str) -> bytes:
    try:
        # Not blocking: a pipe with no writer must not stop a server.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SecretError(f"{where}: not a regular file; allowed: a file with {form}")
            return os.read(descriptor, _LONGEST_FILE)
        finally:
            os.close(descriptor)
    except OSError as error:
        cause = _CAUSES.get(error.errno or 0) or error.strerror or type(error).__name__
        raise SecretError(f"{where}: cannot read it: {cause}; allowed: a file with {form}") from error

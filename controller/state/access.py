"""Who may use the state folder: its owner, and a group if the settings name one.

Checked when a controller starts. Called by :mod:`controller.wiring`.
"""

from __future__ import annotations

import grp
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from abmesh.experiment.errors import SettingsError, StateError
from abmesh.holders import user_name
from controller.settings import STATE_PARENT
from controller.state.locks import failure, make_folder

_OURS: Final = re.compile(r"(leader|state|journal)\.lock|state\.json.*|journal.*|evidence|rollouts")


def secure(folder: Path, group: str | None = None, public: Iterable[Path] = ()) -> list[str]:
    """Take the state folder and what is kept in it from everybody but its users; make it if it is missing.

    Args:
        folder: the state folder.
        group: whose members are users, too; None for nobody.
        public: files that others read. If one of them is in the folder, the folder itself stays as it is.

    Returns:
        What was changed, as sentences for the log.

    Raises:
        SettingsError: there is no such group.
        StateError: the folder, or a file in it, belongs to somebody else, or cannot be made private.
    """
    number = None if group is None else _number(group)
    make_folder(folder)
    changed = []
    try:
        _check_parent(folder.parent)
        found = folder.stat()
        wanted = 0o700 if number is None else 0o2770
        inside = [path for path in public if path.resolve().is_relative_to(folder.resolve())]
        if found.st_uid != os.geteuid():
            _accept(folder, found, number)
        elif inside:
            changed.append(
                f"{folder}: holds {inside[0].name}, which others read, so others can still look into this folder; give "
                f"the controller's files a folder of their own with --state"
            )
        elif stat.S_IMODE(found.st_mode) != wanted or (number is not None and found.st_gid != number):
            if number is not None:
                os.chown(folder, -1, number)
            folder.chmod(wanted)
            before = stat.S_IMODE(found.st_mode)
            if before & ~wanted & 0o777:
                changed.append(f"{folder}: others could open it (mode {before:04o}); it is {wanted:04o} now")
        tightened = [path.name for path in _inside(folder) if _tighten(path, number)]
    except OSError as error:
        raise failure(folder, "made private", error) from error
    if tightened:
        changed.append(f"{folder}: others could open {', '.join(sorted(tightened))}; only the folder's users can now")
    return changed


def _check_parent(parent: Path) -> None:
    """Where many may write beside the document, somebody may have made the folder that all state folders are in."""
    owner = parent.stat().st_uid
    if parent.name == STATE_PARENT and owner not in (os.geteuid(), 0, parent.parent.stat().st_uid):
        raise StateError(
            f"{parent}: belongs to user {user_name(owner)}, who could put another folder in the place of the "
            f"controller's; remove it, or choose another folder with --state"
        )


def _accept(folder: Path, found: os.stat_result, group: int | None) -> None:
    """Somebody else's folder is only good if nobody but them and the group may use it."""
    if group is not None and found.st_gid == group and not found.st_mode & 0o007:
        return
    raise StateError(
        f"{folder}: belongs to user {user_name(found.st_uid)}, but this is user {user_name(os.geteuid())}: whoever "
        f"owns the folder can stop the controller or change its state. Give the folder away with chown, or choose "
        f"another with --state, such as {folder / 'controller'}"
    )


def _tighten(path: Path, group: int | None) -> bool:
    """Give a file or folder to the users only; whether others could open it."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return False  # refused when it is used
    member = group is not None and found.st_gid == group
    if found.st_uid not in (os.geteuid(), 0, path.parent.stat().st_uid) and not member:
        raise StateError(
            f"{path}: belongs to user {user_name(found.st_uid)}, who may not use this folder; remove it, or give it to "
            f"user {user_name(os.geteuid())} with chown"
        )
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        return False
    mode = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
    if group is not None:
        mode = 0o2770 if stat.S_ISDIR(found.st_mode) else 0o660
        if found.st_gid != group:
            os.chown(path, -1, group, follow_symlinks=False)
    before = stat.S_IMODE(found.st_mode)
    if before != mode:
        path.chmod(mode)
    return bool(before & ~mode & 0o777)


def _inside(folder: Path) -> Iterator[Path]:
    """What is ours in a folder, which may hold other things, too."""
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from path.iterdir()


def _number(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise SettingsError(
            f"there is no group {group!r} on this machine; name one that exists, or create it"
        ) from None

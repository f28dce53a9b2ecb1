"""Unix sockets that are replaced atomically, and TCP ports that are held for several processes.

:mod:`ext_proc.transport.grpc_aio` uses the first, :mod:`ext_proc.supervisor` the second.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Any

from abmesh.experiment.errors import StartError
from ext_proc.settings import Tcp

_MODE = 0o660
"""Owner and group may connect: put Envoy into the server's group."""


class UnixSocket:
    """A socket's path, which changes hands without a moment in which nobody answers there.

    The transport binds :attr:`hidden`; :meth:`publish` moves it into place, over whatever an earlier server left.
    A server that stops later than its successor started removes nothing of the successor's.
    """

    def __init__(self, path: Path) -> None:
        """Check that the path can be used.

        Raises:
            StartError: it is something else than a socket, or its folder cannot be used.
        """
        self._path = path
        self.hidden = path.with_name(f".{path.name}.{os.getpid()}")
        self._inode: tuple[int, int] | None = None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise StartError(f"cannot listen on unix:{path}: make {path.parent} a folder that the server may write")
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise StartError(f"cannot listen on unix:{path}: there is a file that is no socket; move it away")
        self.hidden.unlink(missing_ok=True)

    def publish(self) -> None:
        """Let clients connect."""
        self.hidden.chmod(_MODE)
        found = self.hidden.stat()
        self._inode = (found.st_dev, found.st_ino)
        self.hidden.replace(self._path)

    def remove(self) -> None:
        """Remove the socket, unless another server has put its own there."""
        self.hidden.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            found = self._path.stat()
            if (found.st_dev, found.st_ino) == self._inode:
                self._path.unlink()


def reserve(address: Tcp) -> tuple[socket.socket, Tcp]:
    """Hold a TCP port for processes that will listen on it with SO_REUSEPORT.

    The socket never listens, so no connection goes astray; it keeps the port ours while workers come and go.

    Returns:
        The socket, to be closed by the caller, and the address with its real port.

    Raises:
        StartError: the port cannot be had.
    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        held = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"cannot listen on {address}: {error}") from error
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(target)
    except OSError as error:
        held.close()
        raise StartError(f"cannot listen on {address}: {error.strerror or error}") from error
    return held, Tcp(address.host, held.getsockname()[1])


def bound(address: Tcp) -> list[socket.socket]:
    """Sockets on every address that a host's name stands for, all on one port, which others may share.

    Raises:
        StartError: an address cannot be had.
    """
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for family, kind, protocol, _, target in _resolved(address):
            made = socket.socket(family, kind, protocol)
            sockets.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # All of a machine's addresses are those of both families, as they are to gRPC.
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "::"))
            made.bind((target[0], port, *target[2:]))
            port = made.getsockname()[1]
    except OSError as error:
        for made in sockets:
            made.close()
        why = "is it in use, and is the host one of this machine's?"
        raise StartError(f"cannot listen on {address}: {why} ({error.strerror or error})") from error
    return sockets


def _resolved(address: Tcp) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))

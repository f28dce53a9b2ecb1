"""Listening sockets: Unix sockets that are replaced atomically, and TCP ports that several processes share.

Both transports and :mod:`ext_proc.workers.supervisor` use it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Any, Final

from abmesh.experiment.errors import StartError
from ext_proc.settings import Tcp

IN_USE: Final = "is the port already in use, or does the host not belong to this machine?"

_MODE = 0o660
"""Owner and group may connect: run Envoy in the server's group."""


class UnixSocket:
    """The path of a Unix socket, which a new server can take over without a gap.

    The transport binds :attr:`hidden`; :meth:`publish` moves it into place, over what an earlier server left. A server
    that stops after its successor has started does not remove the successor's socket.
    """

    def __init__(self, path: Path) -> None:
        """Check that the path is usable.

        Raises:
            StartError: the path is not a socket, or its folder is not writable.
        """
        self._path = path
        self.hidden = path.with_name(f".{path.name}.{os.getpid()}")
        self._inode: tuple[int, int] | None = None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise StartError(
                f"cannot listen on unix:{path}: {path.parent} must be a folder that the server may write to"
            )
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise StartError(f"cannot listen on unix:{path}: found a file that is not a socket; move it away")
        self.hidden.unlink(missing_ok=True)

    def publish(self) -> None:
        """Move the socket into place, so that clients can connect."""
        self.hidden.chmod(_MODE)
        found = self.hidden.stat()
        self._inode = (found.st_dev, found.st_ino)
        self.hidden.replace(self._path)

    def remove(self) -> None:
        """Remove the socket, unless another server has replaced it."""
        self.hidden.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            found = self._path.stat()
            if (found.st_dev, found.st_ino) == self._inode:
                self._path.unlink()


def reserve(address: Tcp) -> tuple[socket.socket, Tcp]:
    """Reserve a TCP port for processes that will listen on it with SO_REUSEPORT.

    The socket never listens, so it gets no connections; it keeps the port ours while workers are restarted.

    Returns:
        The socket, which the caller closes, and the address with its real port.

    Raises:
        StartError: the port is not available.
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
    """Sockets bound to every address that a host name resolves to, all on one port, with SO_REUSEPORT.

    Raises:
        StartError: an address is not available.
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
                # "::" means all addresses of both families, as it does to gRPC.
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != "::"))
            made.bind((target[0], port, *target[2:]))
            port = made.getsockname()[1]
    except OSError as error:
        for made in sockets:
            made.close()
        raise StartError(f"cannot listen on {address}: {IN_USE} ({error.strerror or error})") from error
    return sockets


def _resolved(address: Tcp) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))

"""Addresses as people write them in flags, and as Envoy's messages. Pure; used by every module here with an address.

``host:port``, ``[::1]:port`` or ``unix:/path``.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from envoy_data_plane.envoy.config.core.v3 import Address, Pipe, SocketAddress

from abmesh.experiment.errors import SettingsError

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")
_LONGEST_PIPE = 107  # Linux: sun_path holds 108 bytes with the terminating zero


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address; the host is an IP address or a name."""

    host: str
    port: int

    @property
    def is_name(self) -> bool:
        """Whether the host must be resolved."""
        return not is_ip(self.host)


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """The path of a Unix socket."""

    path: str


def is_ip(host: str) -> bool:
    """Whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_endpoint(text: str, flag: str) -> Endpoint:
    """Parse a TCP address.

    Args:
        text: ``host:port``; an IPv6 address is in brackets.
        flag: what the text was given for, for the message.

    Raises:
        SettingsError: it is not an address.
    """
    found = _HOST_PORT.fullmatch(text)
    if found is None or int(found["port"]) > 65535 or (found["v6"] and not is_ip(found["v6"])):
        raise SettingsError(f"{flag}: found {text!r}; allowed: HOST:PORT such as 127.0.0.1:10000 or [::1]:10000")
    return Endpoint(found["v6"] or found["host"], int(found["port"]))


def parse_ip_endpoint(text: str, flag: str) -> Endpoint:
    """Like :func:`parse_endpoint`, for an address that Envoy listens on, which cannot be a name.

    Raises:
        SettingsError: it is not a TCP address, or its host is a name.
    """
    endpoint = parse_endpoint(text, flag)
    if endpoint.is_name:
        raise SettingsError(f"{flag}: found {text!r}; allowed: an IP address and a port, such as 127.0.0.1:10000")
    return endpoint


def parse_target(text: str, flag: str) -> Endpoint | UnixSocket:
    """Parse a server's address.

    Args:
        text: ``host:port`` or ``unix:/path``.
        flag: what the text was given for, for the message.

    Raises:
        SettingsError: it is neither, or the port is 0, or the path is longer than Linux allows.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("//"):
            path = "/" + path.lstrip("/")  # gRPC also writes unix:///path
        if not path.startswith("/") or len(path.encode()) > _LONGEST_PIPE or not path.isprintable():
            allowed = f"unix:/path with at most {_LONGEST_PIPE} bytes of path"
            raise SettingsError(f"{flag}: found {text!r}; allowed: {allowed}")
        return UnixSocket(path)
    endpoint = parse_endpoint(text, flag)
    if endpoint.port == 0:
        raise SettingsError(f"{flag}: found {text!r}; allowed: a port from 1 to 65535")
    return endpoint


def address_of(target: Endpoint | UnixSocket) -> Address:
    """Envoy's message for an address."""
    if isinstance(target, UnixSocket):
        return Address(pipe=Pipe(path=target.path))
    return Address(socket_address=SocketAddress(address=target.host, port_value=target.port))

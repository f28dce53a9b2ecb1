"""The settings of one server, validated before anything starts.

``abmesh ext-proc`` and ``python -m ext_proc`` build :class:`Settings` and pass them to :func:`ext_proc.server.run`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from abmesh.address import host_port
from abmesh.experiment.errors import SettingsError
from abmesh.experiment.model import Document
from abmesh.experiment.names import ENV_TRANSPORT
from abmesh.text import quoted

DEFAULT_LISTEN: Final = "127.0.0.1:50051"
OFF: Final = "off"
"""The value of ``--metrics`` for no endpoint."""

_LONGEST_PATH: Final = 90
"""Bytes of a Unix socket's path: the kernel allows 107, and the socket is first created under a longer name."""

MOST_WORKERS: Final = 64

DEFAULT_CONNECTIONS: Final = 1024
MOST_CONNECTIONS: Final = 65_536

_LONGEST_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP address; port 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Unix:
    """A Unix socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = Tcp | Unix


def parse_tcp(text: str, flag: str) -> Tcp:
    """Parse ``HOST:PORT``.

    Raises:
        SettingsError: the text is not an address.
    """
    found = host_port(text)
    if found is None:
        allowed = "HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051; port 0 means any free one"
        raise SettingsError(f"{flag}: not an address; found {quoted(text, _LONGEST_SHOWN)}; allowed: {allowed}")
    return Tcp(*found)


def parse_metrics(text: str | None) -> str | None:
    """The address in ``--metrics``; None if it is left out or ``off``."""
    return None if text == OFF else text


def parse_address(text: str, flag: str = "--listen") -> Address:
    """Parse ``HOST:PORT`` or ``unix:PATH``.

    Raises:
        SettingsError: the text is neither.
    """
    if not text.startswith("unix:"):
        return parse_tcp(text, flag)
    path = text.removeprefix("unix:")
    abstract = path.startswith("@")  # Envoy would look for a socket without a file
    if not path or abstract or "\0" in path or path.endswith("/") or len(os.fsencode(path)) > _LONGEST_PATH:
        allowed = f"unix:PATH, such as unix:/run/abmesh/ext_proc.sock, at most {_LONGEST_PATH} bytes"
        raise SettingsError(f"{flag}: not a socket path; found {quoted(text, _LONGEST_SHOWN)}; allowed: {allowed}")
    return Unix(Path(path))


Transport = Literal["grpcio", "nghttp2"]
TRANSPORTS: Final = get_args(Transport)
DEFAULT_TRANSPORT: Final[Transport] = "nghttp2"


def parse_transport(text: str) -> Transport:
    """The transport with this name.

    Raises:
        SettingsError: there is no such transport.
    """
    for name in TRANSPORTS:
        if text == name:
            known: Transport = name
            return known
    found, allowed = quoted(text, _LONGEST_SHOWN), ", ".join(TRANSPORTS)
    raise SettingsError(f"--transport or {ENV_TRANSPORT}: not a transport; found {found}; allowed: {allowed}")


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS files of a server.

    Attributes:
        cert: the server's certificate with its chain, in PEM.
        key: its private key, in PEM.
        client_ca: the CA certificates that client certificates are verified against; None to accept any client.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


def parse_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    """The TLS files from the three flags; None for plain text.

    Raises:
        SettingsError: the certificate or the key is missing.
    """
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise SettingsError("--tls-cert, --tls-key: TLS needs both, and so does --tls-client-ca")
    return Tls(cert, key, client_ca)


def parse_kubernetes(
    wanted: bool, namespace: str | None, context: str | None, event_origins: Sequence[str]
) -> Kubernetes | None:
    """The cluster from its flags; None for none.

    Raises:
        SettingsError: flags that only count with ``--kubernetes``, or an event origin that is not one.
    """
    given = {"--namespace": namespace, "--context": context, "--event-origin": event_origins}
    alone = [flag for flag, value in given.items() if value]
    if not wanted:
        if alone:
            raise SettingsError(f"{', '.join(alone)}: only with --kubernetes")
        return None
    try:
        Document(version=1, event_origins=tuple(event_origins), experiments=())
    except ValueError as error:
        found = ", ".join(quoted(origin, _LONGEST_SHOWN) for origin in event_origins)
        allowed = "https://HOST or https://HOST:PORT, as browsers send it"
        raise SettingsError(f"--event-origin: not a web origin; found {found}; allowed: {allowed}") from error
    return Kubernetes(namespace or None, context or None, tuple(event_origins))


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """Experiments of a cluster.

    Attributes:
        namespace: whose experiments are served; None for those of all namespaces.
        context: of the kubeconfig; None for the current one, or the service account in a pod.
        event_origins: web origins whose pages may send events from another site.
    """

    namespace: str | None = None
    context: str | None = None
    event_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server.

    Attributes:
        config: the experiments document; it may appear later. Not looked at with ``kubernetes``.
        listen: addresses for Envoy, ``HOST:PORT`` or ``unix:PATH``.
        metrics: ``HOST:PORT`` of the Prometheus endpoint, or None for none.
        workers: processes that share the TCP ports.
        drain_seconds: the longest time to drain.
        poll_interval: seconds between checks of the document.
        transport: which gRPC server answers; ``grpcio`` replaces ``nghttp2`` where that is not installed.
        tls: certificate and key; None for plain text.
        max_connections: the most connections that one worker keeps open.
        kubernetes: the cluster whose experiments are served; None for those of the document.
        shares_ports: whether this process is one of several workers, for which a supervisor holds the TCP ports.

    Raises:
        SettingsError: a setting is not allowed.
    """

    config: Path
    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    metrics: str | None = None
    workers: int = 1
    drain_seconds: float = 10.0
    poll_interval: float = 0.1
    transport: Transport = DEFAULT_TRANSPORT
    tls: Tls | None = None
    max_connections: int = DEFAULT_CONNECTIONS
    kubernetes: Kubernetes | None = None
    shares_ports: bool = False

    def __post_init__(self) -> None:
        addresses = self.addresses
        if not addresses:
            raise SettingsError("--listen: no address; found nothing; allowed: one or more, such as 127.0.0.1:50051")
        fixed = [address for address in addresses if not (isinstance(address, Tcp) and address.port == 0)]
        for index, address in enumerate(fixed):
            if address in fixed[:index]:
                raise SettingsError(f"--listen: the same address twice; found {address}; allowed: each address once")
        if self.metrics is not None:
            parse_tcp(self.metrics, "--metrics")
        if not 1 <= self.workers <= MOST_WORKERS:
            raise SettingsError(f"--workers: out of range; found {self.workers}; allowed: 1 to {MOST_WORKERS}")
        if not 1 <= self.max_connections <= MOST_CONNECTIONS:
            found = f"found {self.max_connections}; allowed: 1 to {MOST_CONNECTIONS}"
            raise SettingsError(f"--max-connections: out of range; {found}")
        if not (math.isfinite(self.drain_seconds) and 0 <= self.drain_seconds <= 3600):
            raise SettingsError(f"--drain: out of range; found {self.drain_seconds}; allowed: 0 to 3600 seconds")
        if not (math.isfinite(self.poll_interval) and 0.01 <= self.poll_interval <= 60):
            raise SettingsError(f"--poll: out of range; found {self.poll_interval}; allowed: 0.01 to 60 seconds")

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The listening addresses, parsed."""
        return tuple(parse_address(text) for text in self.listen)

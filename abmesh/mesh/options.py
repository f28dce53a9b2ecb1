"""Settings of rendering besides the document. Built by the command line and the demo; pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta

from abmesh.experiment.errors import SettingsError
from abmesh.mesh.addresses import Endpoint, UnixSocket, parse_ip_endpoint, parse_target
from abmesh.mesh.routes_file import check_routes_file


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How Envoy speaks TLS to the external-processing server. Paths are as Envoy sees them.

    Attributes:
        ca: file of the certificates to trust.
        name: the name that the server's certificate must have; empty: the hosts that Envoy connects to.
        cert: Envoy's own certificate, for a server that asks for one; empty: none.
        key: its private key.

    Raises:
        SettingsError: they do not fit together.
    """

    ca: str
    name: str = ""
    cert: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if not self.ca:
            raise SettingsError("ext_proc_ca: found none; allowed: a file with the certificates to trust")
        if bool(self.cert) != bool(self.key):
            raise SettingsError("ext_proc_cert, ext_proc_key: found only one of them; allowed: both or neither")


_LEAST_HEAP = 64 * 1024**2
"""Envoy alone takes some 40 MiB."""


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How the rendered Envoy is reached, and how it reaches the external-processing server.

    Attributes:
        listen: IP address and port for clients. Port 0 lets the system choose one.
        admin: IP address and port of Envoy's admin endpoint. Loopback only: it has no authentication.
        warmup: IP address and port through which the controller warms up new versions. Loopback only: anyone who can
            connect to it chooses the variant. Empty: none.
        ext_proc: where the server listens, ``host:port`` or ``unix:/path``; several share the load.
        ext_proc_tls: how Envoy speaks TLS to the server; None for plaintext.
        streams_per_connection: concurrent requests on one connection to the server after which Envoy opens another.
            A high number saves CPU on both sides. But a server's worker processes share one port, and the system gives
            each *connection* to one of them: with several workers, choose about 2, or few of them get work.
        message_timeout: longest wait for the server's answer to one request; then the request goes to the control.
        stats_flush_interval: how often Envoy merges its histograms, and so how old they may be when read.
        trusted_hops: number of proxies in front of Envoy whose ``x-forwarded-for`` and ``x-forwarded-proto`` are
            trusted. With none, Envoy sets both from the connection.
        routes_file: absolute path, as Envoy sees it, of the file that Envoy reads its routes from whenever it is
            replaced. Empty: the routes are in the bootstrap and never change.
        max_heap: bytes of memory that Envoy may use; it refuses requests just before. Less than its container may use.
        node_id: Envoy's own name.
        node_cluster: name of the group of Envoys that it belongs to.

    Raises:
        SettingsError: a value is not allowed.
    """

    listen: str = "0.0.0.0:10000"
    admin: str = "127.0.0.1:9901"
    warmup: str = "127.0.0.1:9902"
    ext_proc: tuple[str, ...] = ("127.0.0.1:50051",)
    ext_proc_tls: ServerTls | None = None
    streams_per_connection: int = 100
    message_timeout: timedelta = timedelta(milliseconds=500)
    stats_flush_interval: timedelta = timedelta(seconds=1)
    trusted_hops: int = 0
    routes_file: str = ""
    max_heap: int = 2 * 1024**3
    node_id: str = "abmesh"
    node_cluster: str = "abmesh"

    def __post_init__(self) -> None:
        parse_ip_endpoint(self.listen, "listen")
        _loopback("admin", self.admin_endpoint, "Envoy's admin endpoint has no authentication", "127.0.0.1:9901")
        if self.warmup_endpoint is not None:
            why = "anyone who can connect to it chooses the variant, uncounted"
            _loopback("warmup", self.warmup_endpoint, why, "127.0.0.1:9902")
        self._check_targets()
        _between("message_timeout", self.message_timeout, timedelta(milliseconds=1), timedelta(minutes=1))
        _between("stats_flush_interval", self.stats_flush_interval, timedelta(milliseconds=1), timedelta(minutes=5))
        _whole("streams_per_connection", self.streams_per_connection, 1, 10_000)
        _whole("trusted_hops", self.trusted_hops, 0, 100)
        _whole("max_heap", self.max_heap, _LEAST_HEAP, 2**50)
        if self.routes_file:
            check_routes_file(self.routes_file)
        for name, value in (("node_id", self.node_id), ("node_cluster", self.node_cluster)):
            if not value or not value.isprintable():
                raise SettingsError(f"{name}: found {value!r}; allowed: printable text that is not empty")

    @property
    def listen_endpoint(self) -> Endpoint:
        """Where clients connect."""
        return parse_ip_endpoint(self.listen, "listen")

    @property
    def admin_endpoint(self) -> Endpoint:
        """Where the admin endpoint listens."""
        return parse_ip_endpoint(self.admin, "admin")

    @property
    def warmup_endpoint(self) -> Endpoint | None:
        """Where new versions are warmed up; None if nowhere."""
        return parse_ip_endpoint(self.warmup, "warmup") if self.warmup else None

    @property
    def ext_proc_targets(self) -> tuple[Endpoint | UnixSocket, ...]:
        """Where the server listens."""
        return tuple(parse_target(text, "ext_proc") for text in self.ext_proc)

    def _check_targets(self) -> None:
        targets = self.ext_proc_targets
        if not targets:
            raise SettingsError("ext_proc: found none; allowed: at least one HOST:PORT or unix:/path")
        if len(set(targets)) < len(targets):
            raise SettingsError(f"ext_proc: found {', '.join(self.ext_proc)}; allowed: each address once")
        sockets = any(isinstance(target, UnixSocket) for target in targets)
        if sockets and self.ext_proc_tls is not None and not self.ext_proc_tls.name:
            raise SettingsError(
                "ext_proc_name: found none, which a Unix socket needs; allowed: the name in the server's certificate"
            )
        if sockets and any(isinstance(target, Endpoint) and target.is_name for target in targets):
            raise SettingsError(
                f"ext_proc: found {', '.join(self.ext_proc)}; Envoy cannot mix Unix sockets with names that it must "
                "resolve; allowed: Unix sockets and IP addresses, or names and IP addresses"
            )


def _loopback(name: str, found: Endpoint, why: str, example: str) -> None:
    if not ipaddress.ip_address(found.host).is_loopback:
        where = f"[{found.host}]" if ":" in found.host else found.host
        raise SettingsError(
            f"{name}: found '{where}:{found.port}', which other machines can reach; {why}; allowed: a loopback address "
            f"such as {example}"
        )


def _between(name: str, value: timedelta, lowest: timedelta, highest: timedelta) -> None:
    if not lowest <= value <= highest:
        found = f"{value.total_seconds():g}s"
        allowed = f"{lowest.total_seconds():g}s to {highest.total_seconds():g}s"
        raise SettingsError(f"{name}: found {found}; allowed: {allowed}")


def _whole(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise SettingsError(f"{name}: found {value}; allowed: {lowest} to {highest}")

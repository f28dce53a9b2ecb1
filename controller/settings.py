"""The controller's settings, validated once before anything starts. Made by the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from abmesh.address import host_port
from abmesh.experiment.errors import SettingsError
from abmesh.experiment.quantities import format_duration
from abmesh.mesh.routes_file import check_routes_file
from abmesh.text import quoted

JOURNAL_FILE = "journal.jsonl"
"""Name of the journal in the state folder."""

STATE_PARENT = ".abmesh"
"""Folder beside the document that holds the state folders."""

LONGEST_NOTE = 500
"""Most characters of an operator's reason for a command."""

_LONGEST_QUOTE = 200
_ADMIN = ("an Envoy's admin address", "http://127.0.0.1:9901")
_SERVER = ("a Prometheus server's address", "http://127.0.0.1:9090")
_ISTIOD = ("the address of istiod's monitoring endpoint", "http://istiod.istio-system.svc:15014")
_WARMUP = ("the address of an Envoy's warm-up listener", "http://127.0.0.1:9902")
"""What error messages call an address, and an example."""


MIN_INTERVAL = timedelta(milliseconds=100)

ENVOY = "envoy"
PROMETHEUS = "prometheus"
SOURCES = (ENVOY, PROMETHEUS)

DEFAULT_SELECTOR = 'job="envoy"'
_MATCHER = r'[A-Za-z_][A-Za-z0-9_]*\s*(?:=|!=|=~|!~)\s*"(?:[^"\\\n]|\\.)*"'
_SELECTOR = re.compile(rf"\s*{_MATCHER}\s*(?:,\s*{_MATCHER}\s*)*")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which EnvoyFilters a controller in a cluster keeps.

    Attributes:
        server: the server as proxies reach it: ``NAME.NAMESPACE.svc.DOMAIN:PORT``, or ``unix:PATH`` in their own pods.
        cluster_domain: the end of Services' names.
        istiod: base address of istiod's monitoring endpoint.
        root_namespace: Istio's own.
        owner: name of the ClusterRole that owns the filters; empty: none.
        gateway_namespaces: where gateways may be changed.
        caller_namespaces: whose sidecars may be changed.
        manage: whether filters are written at all.
        listener_updates: whether filters that drain connections may be changed once they are there.
    """

    server: str = "abmesh-ext-proc.abmesh.svc.cluster.local:50051"
    cluster_domain: str = "cluster.local"
    istiod: str = "http://istiod.istio-system.svc:15014"
    root_namespace: str = "istio-system"
    owner: str = ""
    gateway_namespaces: tuple[str, ...] = ()
    caller_namespaces: tuple[str, ...] = ()
    manage: bool = True
    listener_updates: bool = True

    def __post_init__(self) -> None:
        """Validate; raises SettingsError for a value that is not allowed."""
        object.__setattr__(self, "istiod", _address(self.istiod, *_ISTIOD))


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """Which cluster keeps everything, in the place of files.

    Attributes:
        namespace: of the Experiments; None for all namespaces. The controller's own objects are in the pod's, or in
            that of the kubeconfig's context.
        context: of the kubeconfig; None for the pod's service account, or the kubeconfig's current one.
        filters: which EnvoyFilters are kept.
    """

    namespace: str | None = None
    context: str | None = None
    filters: Filters = field(default_factory=Filters)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the controller, of operators' commands and of ``abmesh status``.

    Attributes:
        config: the experiments document.
        state_dir: folder of state, journal and locks; if None, ``.abmesh/<name of the document>/`` beside the document.
        state_group: group whose members may use the state folder, too; None for its owner only.
        source: where statistics come from: ``envoy`` for the Envoys, ``prometheus`` for a server that scrapes them.
        envoys: base addresses of Envoys' admin endpoints; only a running controller needs them.
        url: base address of the Prometheus server.
        selector: label matchers that select the server's targets that are Envoys.
        max_age: oldest scrape of a target that is accepted.
        routes_file: the routes file of an Envoy on this machine; None if the controller keeps none.
        warmups: base addresses of Envoys' warm-up listeners; only rollouts with a warm-up need them.
        interval: time between the starts of two ticks.
        settle: how long new weights need to reach every server and Envoy.
        timeout: time limit for the answer of one Envoy, or of the Prometheus server.
        kubernetes: the cluster that keeps experiments, state and journal; None for files.
        http_listen: ``HOST:PORT`` of ``/metrics`` and ``/healthz``; None serves neither. Port 0 picks a free port.
    """

    config: Path
    state_dir: Path | None = None
    envoys: tuple[str, ...] = ()
    warmups: tuple[str, ...] = ()
    interval: timedelta = timedelta(seconds=5)
    settle: timedelta = timedelta(seconds=5)
    timeout: timedelta = timedelta(seconds=5)
    http_listen: str | None = None
    source: str = ENVOY
    url: str | None = None
    selector: str = DEFAULT_SELECTOR
    max_age: timedelta = timedelta(minutes=2)
    routes_file: Path | None = None
    state_group: str | None = None
    kubernetes: Kubernetes | None = None

    def __post_init__(self) -> None:
        """Validate; raises SettingsError for a value that is not allowed."""
        if self.interval < MIN_INTERVAL:
            raise SettingsError(f"interval {format_duration(self.interval)} is too short; allowed: 100ms or more")
        if self.settle < timedelta():
            raise SettingsError("the settle time cannot be negative; allowed: 0s or more")
        if self.timeout < timedelta(milliseconds=1):
            raise SettingsError(f"timeout {format_duration(self.timeout)} is too short; allowed: 1ms or more")
        self._check_source()
        object.__setattr__(self, "envoys", tuple(_address(envoy, *_ADMIN) for envoy in self.envoys))
        object.__setattr__(self, "warmups", tuple(_address(each, *_WARMUP) for each in self.warmups))
        twice = sorted({envoy for envoy in self.envoys if self.envoys.count(envoy) > 1})
        if twice:
            raise SettingsError(f"the Envoy {twice[0]} is given twice, so its requests would count twice; give it once")
        twice = sorted({each for each in self.warmups if self.warmups.count(each) > 1})
        if twice:
            raise SettingsError(f"the warm-up listener {twice[0]} is given twice; give it once")
        if self.kubernetes is not None:
            self._check_cluster()
        if self.routes_file is not None:
            check_routes_file(str(self.routes_file))
        if self.http_listen is not None:
            listen_address(self.http_listen)

    def _check_source(self) -> None:
        if self.source not in SOURCES:
            raise SettingsError(f"{_quoted(self.source)} is not a source of statistics; allowed: {', '.join(SOURCES)}")
        if self.source == ENVOY:
            if self.url is not None:
                raise SettingsError("--url is only for --source prometheus; add that, or leave out --url")
            return
        if self.envoys:
            raise SettingsError("--envoy is only for --source envoy; the Prometheus server lists the Envoys itself")
        if self.url is None:
            raise SettingsError("--source prometheus needs the server's address, such as --url http://127.0.0.1:9090")
        object.__setattr__(self, "url", _address(self.url, *_SERVER))
        if not _SELECTOR.fullmatch(self.selector):
            allowed = 'write label matchers separated by commas, such as job="envoy",namespace="edge"'
            raise SettingsError(f"{_quoted(self.selector)} is not a selector of targets; {allowed}")
        if self.max_age < timedelta(seconds=1):
            raise SettingsError(f"max age {format_duration(self.max_age)} is too short; allowed: 1s or more")

    def _check_cluster(self) -> None:
        for flag, value in (
            ("--state", self.state_dir),
            ("--state-group", self.state_group),
            ("--routes-file", self.routes_file),
        ):
            if value is not None:
                raise SettingsError(f"{flag} is for files; with --kubernetes, the cluster keeps everything")

    @property
    def state_folder(self) -> Path:
        """Folder of state, journal and locks."""
        return self.state_dir or self.config.absolute().parent / STATE_PARENT / self.config.stem

    @property
    def journal_path(self) -> Path:
        """Path of the journal."""
        return self.state_folder / JOURNAL_FILE


def parse_kubernetes(
    wanted: bool, namespace: str | None, context: str | None, filters: Filters | None = None
) -> Kubernetes | None:
    """The cluster from its flags; None for none.

    Raises:
        SettingsError: flags that only count with ``--kubernetes``.
    """
    if wanted:
        return Kubernetes(namespace or None, context or None, filters or Filters())
    alone = [flag for flag, value in (("--namespace", namespace), ("--context", context)) if value]
    if alone:
        raise SettingsError(f"{', '.join(alone)}: only with --kubernetes")
    return None


def check_note(text: str) -> str:
    """An operator's reason for a command, as the journal may keep it.

    Raises:
        SettingsError: it is too long, or has characters that are not printed, such as line breaks.
    """
    if len(text) > LONGEST_NOTE:
        raise SettingsError(f"--reason has {len(text)} characters; allowed: at most {LONGEST_NOTE}")
    if not text.isprintable():
        place = next(index for index, character in enumerate(text, 1) if not character.isprintable())
        raise SettingsError(f"--reason: character {place} is not printable; allowed: one line of printable text")
    return text


def listen_address(text: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` into host and port; an IPv6 address must be in brackets.

    Raises:
        SettingsError: the text has another form.
    """
    found = host_port(text)
    if found is None:
        raise SettingsError(f"{_quoted(text)} is not an address to listen on; write HOST:PORT, such as 127.0.0.1:9103")
    return found


def _quoted(text: str) -> str:
    return quoted(text, _LONGEST_QUOTE)


def _address(text: str, what: str, example: str) -> str:
    allowed = f"write http://HOST:PORT, such as {example}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        why = str(error) if len(str(error)) < _LONGEST_QUOTE else "its port is not valid"
        raise SettingsError(f"{_quoted(text)} is not {what}: {why}; {allowed}") from None
    odd = " " in text or not text.isprintable() or parts.query or parts.fragment or port == 0
    if odd or parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{_quoted(text)} is not {what}; {allowed}")
    if parts.username or parts.password:
        raise SettingsError(f"{what} must not contain a user name or password; {allowed}")
    return text.rstrip("/")

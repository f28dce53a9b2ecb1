"""How a controller is set up: which document, whose statistics, how often. Checked once, before anything starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from abmesh.experiment.errors import SettingsError
from abmesh.experiment.quantities import DURATION_FORM, format_duration, parse_duration
from abmesh.mesh.routes_file import check_routes_file

JOURNAL_FILE = "journal.jsonl"
"""In the state folder."""

STATE_PARENT = ".abmesh"

_LONGEST_SHOWN = 200
_ADMIN = ("an Envoy's admin address", "http://127.0.0.1:9901")
_SERVER = ("a Prometheus server's address", "http://127.0.0.1:9090")
_WARMUP = ("the address of an Envoy's warm-up listener", "http://127.0.0.1:9902")
"""What an address is called, and an example."""

_PORT = re.compile("[0-9]{1,5}")

MIN_INTERVAL = timedelta(milliseconds=100)

ENVOY = "envoy"
PROMETHEUS = "prometheus"
SOURCES = (ENVOY, PROMETHEUS)

DEFAULT_SELECTOR = 'job="envoy"'
_MATCHER = r'[A-Za-z_][A-Za-z0-9_]*\s*(?:=|!=|=~|!~)\s*"(?:[^"\\\n]|\\.)*"'
_SELECTOR = re.compile(rf"\s*{_MATCHER}\s*(?:,\s*{_MATCHER}\s*)*")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the controller, of the operator's commands and of the status.

    Attributes:
        config: the experiments document.
        state_dir: where state, journal and locks are; none means ``.abmesh/<name of the config file>/`` beside it.
        source: ``envoy`` asks the Envoys; ``prometheus`` a server that scrapes them.
        envoys: base addresses of Envoys' admin endpoints; only a running controller needs them.
        url: base address of the Prometheus server.
        selector: matchers of the server's targets that are Envoys.
        max_age: how old a target's last scrape may be.
        routes_file: the file that an Envoy on this machine takes its routes from; none where no Envoy does.
        warmups: base addresses of Envoys' warm-up listeners; only rollouts with a warm-up need them.
        interval: time between the starts of two ticks.
        settle: how long new weights need until every server and Envoy serves them.
        timeout: time limit for the answer of one Envoy, or of the Prometheus server.
        http_listen: ``HOST:PORT`` of ``/metrics`` and ``/healthz``; none serves neither. Port 0 takes a free one.
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

    def __post_init__(self) -> None:
        """Raises SettingsError for a value that makes no sense."""
        if self.interval < MIN_INTERVAL:
            raise SettingsError(f"interval {format_duration(self.interval)} is too short; at least 100ms")
        if self.settle < timedelta():
            raise SettingsError("the settle time cannot be negative")
        if self.timeout < timedelta(milliseconds=1):
            raise SettingsError(f"timeout {format_duration(self.timeout)} is too short; at least 1ms")
        self._check_source()
        object.__setattr__(self, "envoys", tuple(_address(envoy, *_ADMIN) for envoy in self.envoys))
        object.__setattr__(self, "warmups", tuple(_address(each, *_WARMUP) for each in self.warmups))
        twice = sorted({envoy for envoy in self.envoys if self.envoys.count(envoy) > 1})
        if twice:
            raise SettingsError(f"the Envoy {twice[0]} is named twice; its requests would count twice")
        twice = sorted({each for each in self.warmups if self.warmups.count(each) > 1})
        if twice:
            raise SettingsError(f"the warm-up listener {twice[0]} is named twice")
        if self.routes_file is not None:
            check_routes_file(str(self.routes_file))
        if self.http_listen is not None:
            listen_address(self.http_listen)

    def _check_source(self) -> None:
        if self.source not in SOURCES:
            raise SettingsError(f"{_shown(self.source)} is no source of statistics; allowed: {', '.join(SOURCES)}")
        if self.source == ENVOY:
            if self.url is not None:
                raise SettingsError("--url is the address of a Prometheus server; add --source prometheus")
            return
        if self.envoys:
            raise SettingsError("--envoy is for --source envoy; a Prometheus server says itself which Envoys there are")
        if self.url is None:
            raise SettingsError("--source prometheus needs the server's address: --url http://127.0.0.1:9090")
        object.__setattr__(self, "url", _address(self.url, *_SERVER))
        if not _SELECTOR.fullmatch(self.selector):
            allowed = 'write matchers of labels with commas between them, such as job="envoy",namespace="edge"'
            raise SettingsError(f"{_shown(self.selector)} selects no targets; {allowed}")
        if self.max_age < timedelta(seconds=1):
            raise SettingsError(f"max age {format_duration(self.max_age)} is too short; at least 1s")

    @property
    def state_folder(self) -> Path:
        """The folder of state, journal and locks."""
        return self.state_dir or self.config.absolute().parent / STATE_PARENT / self.config.stem

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.state_folder / JOURNAL_FILE


def listen_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 address stands in brackets.

    Raises:
        SettingsError: it is none.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or not _PORT.fullmatch(port) or int(port) > 65535 or (":" in host and bare == host):
        raise SettingsError(f"{_shown(text)} is not an address to listen on; write HOST:PORT, such as 127.0.0.1:9103")
    return bare, int(port)


def duration(text: str) -> timedelta:
    """The duration that a flag's text means.

    Raises:
        SettingsError: it means none.
    """
    value = parse_duration(text)
    if value is None:
        raise SettingsError(f"{text!r} is not a duration; write {DURATION_FORM}")
    return value


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!r}..."


def _address(text: str, what: str, example: str) -> str:
    allowed = f"write http://HOST:PORT, such as {example}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        why = str(error) if len(str(error)) < _LONGEST_SHOWN else "its port is no port"
        raise SettingsError(f"{_shown(text)} is not {what}: {why}; {allowed}") from None
    odd = " " in text or not text.isprintable() or parts.query or parts.fragment or port == 0
    if odd or parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{_shown(text)} is not {what}; {allowed}")
    if parts.username or parts.password:
        raise SettingsError(f"{what} cannot hold a user name or a password")
    return text.rstrip("/")

"""A real Envoy for tests: on free ports, waited for, read as JSON, and never left behind.

    with EnvoyProcess(render_bootstrap(document, options), tmp_path) as envoy:
        ...  # envoy.url, envoy.counters("^abmesh"), envoy.restart()

:func:`on_free_ports` puts free ports into the bootstrap; :meth:`EnvoyProcess.restart` keeps them.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from abmesh.local.processes import ending_with_parent, find_envoy, free_ports
from abmesh.mesh import warmup
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.yaml_text import to_yaml

START_LIMIT = 30.0
STOP_LIMIT = 10.0


def launch(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program that ends when this one does, however that ends. Its process id is the program's own."""
    return subprocess.Popen(ending_with_parent(command), **options)


def on_free_ports(options: RenderOptions) -> RenderOptions:
    """The same options, with free ports of the loopback interface.

    Not port 0, for which the kernel gives one that some connection may take while Envoy restarts.
    """
    listen, admin, warmup_ = (f"127.0.0.1:{port}" for port in free_ports(3))
    return dataclasses.replace(options, listen=listen, admin=admin, warmup=warmup_)


def wait_for(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait until a condition holds; fail with ``what`` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)


class EnvoyProcess:
    """One Envoy.

    Attributes:
        port: of the first listener, once started.
        warmup_port: of the listener that warms new versions, once started; 0 without one.
        admin_port: of the admin endpoint, once started.
        log: file that Envoy's output goes to, over all its runs.
    """

    def __init__(self, bootstrap: Mapping[str, Any], directory: Path, *, log_level: str = "warning") -> None:
        self._bootstrap: dict[str, Any] = copy.deepcopy(dict(bootstrap))
        self._directory = directory
        self._log_level = log_level
        self._process: subprocess.Popen[bytes] | None = None
        self.log = directory / "envoy.log"
        self.port = 0
        self.warmup_port = 0
        self.admin_port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the running Envoy."""
        if self._process is None:
            raise RuntimeError("this Envoy is not running")
        return self._process.pid

    @property
    def url(self) -> str:
        """Where clients are served."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where the admin endpoint answers."""
        return f"http://127.0.0.1:{self.admin_port}"

    def start(self) -> None:
        """Start and wait until it serves; AssertionError with the end of its log if it does not."""
        if self._process is not None:
            raise RuntimeError("this Envoy is already running")
        self._directory.mkdir(parents=True, exist_ok=True)
        config, admin_file = self._directory / "bootstrap.yaml", self._directory / "admin"
        config.write_text(to_yaml(self._bootstrap))
        admin_file.unlink(missing_ok=True)
        command = [find_envoy(), "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1"]
        # Envoy would log a line for every request while the external-processing server is down.
        command += ["--log-level", self._log_level, "--component-log-level", "ext_proc:error"]
        command += ["--admin-address-path", str(admin_file)]
        with self.log.open("ab") as log:
            self._process = launch(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_for(lambda: self._alive() and self._found_admin(admin_file), "Envoy's admin endpoint", START_LIMIT)
            wait_for(lambda: self._alive() and self._ready(), "a ready Envoy", START_LIMIT)
            self._keep_ports()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it as an operator does; by force if it does not end. Does nothing if it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it without warning. Does nothing if it is not running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Start again on the same ports, with statistics that begin at nothing."""
        self.stop()
        self.start()

    def admin(self, path: str) -> str:
        """What the admin endpoint answers."""
        with urllib.request.urlopen(self.admin_url + path, timeout=10) as response:
            text: str = response.read().decode()
        return text

    def stats(self, pattern: str) -> list[dict[str, Any]]:
        """The ``stats`` list as Envoy gives it, histograms with detailed bins, for names that match a pattern."""
        query = urllib.parse.urlencode({"format": "json", "filter": pattern, "histogram_buckets": "detailed"})
        found: list[dict[str, Any]] = json.loads(self.admin(f"/stats?{query}&usedonly"))["stats"]
        return found

    def counters(self, pattern: str) -> dict[str, int]:
        """Values of counters and gauges by name; those that were never touched are absent."""
        return {stat["name"]: stat["value"] for stat in self.stats(pattern) if "value" in stat}

    def histograms(self, pattern: str) -> dict[str, list[dict[str, Any]]]:
        """Bins of histograms since the start, ``{lower_bound, width, count}``, by name."""
        return {
            detail["name"]: detail["totals"]
            for stat in self.stats(pattern)
            if "histograms" in stat
            for detail in stat["histograms"]["details"]
        }

    def log_lines(self, level: str) -> list[str]:
        """Lines that Envoy logged at a level, such as ``error``."""
        return [line for line in self.log.read_text().splitlines() if f"[{level}]" in line]

    def _alive(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            end = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise AssertionError(f"Envoy ended while it was waited for; the end of its log:\n{end}")
        return True

    def _found_admin(self, file: Path) -> bool:
        address = file.read_text().strip() if file.exists() else ""
        self.admin_port = int(address.rpartition(":")[2] or 0)
        return self.admin_port != 0

    def _ready(self) -> bool:
        try:
            return self.admin("/ready").strip() == "LIVE"
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _keep_ports(self) -> None:
        listening = json.loads(self.admin("/listeners?format=json"))["listener_statuses"]
        ports = {found["name"]: found["local_address"]["socket_address"]["port_value"] for found in listening}
        listeners = self._bootstrap["static_resources"]["listeners"]
        for listener in listeners:
            listener["address"]["socket_address"]["port_value"] = ports[listener["name"]]
        self.port = ports[listeners[0]["name"]]
        self.warmup_port = ports.get(warmup.NAME, 0)
        self._bootstrap["admin"]["address"]["socket_address"]["port_value"] = self.admin_port

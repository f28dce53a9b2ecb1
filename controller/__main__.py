"""``python -m controller``: the controller without the rest of the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from controller.app import run
from controller.settings import DEFAULT_SELECTOR, ENVOY, SOURCES, Settings, duration
from experiment.errors import AbmeshError
from experiment.names import DEFAULT_CONFIG, ENV_CONFIG, ENV_STATE


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse flags and run; the exit code: 0 done, 1 refused or failed. Wrong usage exits with 2."""
    parser = argparse.ArgumentParser(prog="python -m controller", description="Roll out models on evidence from Envoy.")
    config, state = os.environ.get(ENV_CONFIG) or DEFAULT_CONFIG, os.environ.get(ENV_STATE) or None
    parser.add_argument("--config", type=Path, default=Path(config), help=f"the experiments document [{ENV_CONFIG}]")
    parser.add_argument(
        "--envoy", action="append", default=[], metavar="URL", help="admin address of an Envoy; may be repeated"
    )
    parser.add_argument("--source", default=ENVOY, choices=SOURCES, help="where statistics come from (envoy)")
    parser.add_argument("--url", help="address of the Prometheus server, for --source prometheus")
    parser.add_argument(
        "--selector", default=DEFAULT_SELECTOR, help=f"its targets that are Envoys ({DEFAULT_SELECTOR})"
    )
    parser.add_argument("--max-age", default="2m", help="how old a target's last scrape may be (2m)")
    parser.add_argument(
        "--warmup", action="append", default=[], metavar="URL", help="warm-up listener of an Envoy; may be repeated"
    )
    parser.add_argument("--interval", default="5s", help="time between ticks (5s)")
    parser.add_argument("--settle", default="5s", help="time that new weights need to be in force everywhere (5s)")
    parser.add_argument(
        "--timeout", default="5s", help="time limit for the answer of one Envoy, or of the Prometheus server (5s)"
    )
    parser.add_argument("--http", metavar="HOST:PORT", help="serve /metrics and /healthz there")
    parser.add_argument(
        "--routes-file", type=Path, metavar="FILE", help="file that an Envoy here takes its routes from"
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(state) if state else None,
        metavar="DIR",
        help=f"folder for state and journal [{ENV_STATE}]",
    )
    flags = parser.parse_args(arguments)
    try:
        return run(
            Settings(
                config=flags.config,
                state_dir=flags.state,
                envoys=tuple(flags.envoy),
                warmups=tuple(flags.warmup),
                interval=duration(flags.interval),
                settle=duration(flags.settle),
                timeout=duration(flags.timeout),
                http_listen=flags.http,
                source=flags.source,
                url=flags.url,
                selector=flags.selector,
                max_age=duration(flags.max_age),
                routes_file=flags.routes_file.absolute() if flags.routes_file else None,
            )
        )
    except AbmeshError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""``python -m ext_proc``: the server without the rest of the command line. See docs/operations/ext-proc.md.

The supervisor starts its workers this way (:mod:`ext_proc.workers`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from abmesh.experiment.errors import AbmeshError, SettingsError
from abmesh.experiment.names import DEFAULT_CONFIG, ENV_CONFIG, ENV_KUBERNETES, ENV_TRANSPORT
from ext_proc.settings import (
    DEFAULT_CONNECTIONS,
    DEFAULT_LISTEN,
    DEFAULT_TRANSPORT,
    OFF,
    TRANSPORTS,
    Settings,
    parse_kubernetes,
    parse_metrics,
    parse_tls,
    parse_transport,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m ext_proc", description="Envoy's external-processing server.")
    config = os.environ.get(ENV_CONFIG) or DEFAULT_CONFIG
    parser.add_argument(
        "--config", type=Path, default=Path(config), metavar="FILE", help=f"the experiments document; default: {config}"
    )
    listen = f"HOST:PORT or unix:PATH, repeatable; default: {DEFAULT_LISTEN}"
    parser.add_argument("--listen", action="append", metavar="ADDR", help=listen)
    parser.add_argument("--metrics", default=OFF, metavar="ADDR", help=f"HOST:PORT, or off; default: {OFF}")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the port; default: 1")
    parser.add_argument(
        "--drain", type=float, default=10.0, metavar="SECONDS", help="maximum time to drain; default: 10"
    )
    poll = "how often to check FILE for changes; default: 0.1"
    parser.add_argument("--poll", type=float, default=0.1, metavar="SECONDS", help=poll)
    chosen = os.environ.get(ENV_TRANSPORT) or DEFAULT_TRANSPORT
    transport = f"the gRPC server to use, {' or '.join(TRANSPORTS)}; default: {chosen}"
    parser.add_argument("--transport", default=chosen, metavar="NAME", help=transport)
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="the server's certificate, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument("--tls-client-ca", type=Path, metavar="FILE", help="CA that signs client certificates, PEM")
    most = f"the most connections of one worker; default: {DEFAULT_CONNECTIONS}"
    parser.add_argument("--max-connections", type=int, default=DEFAULT_CONNECTIONS, metavar="N", help=most)
    kubernetes = os.environ.get(ENV_KUBERNETES, "").lower() in ("1", "true", "yes", "on")
    wanted = "serve the Experiments of a cluster instead of FILE"
    parser.add_argument("--kubernetes", action="store_true", default=kubernetes, help=wanted)
    parser.add_argument("--namespace", metavar="NAME", help="with --kubernetes; default: all namespaces")
    parser.add_argument("--context", metavar="NAME", help="of the kubeconfig; default: its current one")
    origin = "web origin whose pages may send events from another site, repeatable; with --kubernetes"
    parser.add_argument("--event-origin", action="append", metavar="URL", help=origin)
    parser.add_argument("--worker", type=int, metavar="INDEX", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code: 0 drained, 1 failed. Exits with 2 if the flags are wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        settings = Settings(
            config=given.config,
            listen=tuple(given.listen or (DEFAULT_LISTEN,)),
            metrics=parse_metrics(given.metrics),
            workers=given.workers,
            drain_seconds=given.drain,
            poll_interval=given.poll,
            transport=parse_transport(given.transport),
            max_connections=given.max_connections,
            kubernetes=parse_kubernetes(
                given.kubernetes, given.namespace, given.context, tuple(given.event_origin or ())
            ),
            shares_ports=given.worker is not None,
            tls=parse_tls(given.tls_cert, given.tls_key, given.tls_client_ca),
        )
    except SettingsError as error:
        parser.error(str(error))
    try:
        if given.worker is not None:
            from ext_proc.workers.worker import run_worker

            return run_worker(settings, given.worker)
        from ext_proc.server import run

        return run(settings)
    except AbmeshError as error:
        sys.stderr.write(f"ext_proc: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())

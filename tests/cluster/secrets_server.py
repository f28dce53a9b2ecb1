"""Serves certificate files to Envoy by SDS, as the agent in Istio's proxy does: `python -m ... SOCKET`.

istiod turns the paths of a Gateway's certificate into a secret `file-cert:CERTIFICATE~KEY`, which Envoy asks of its
static cluster `sds-grpc`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from envoy.service.secret.v3.sds_pb2_grpc import (
    SecretDiscoveryServiceServicer,
    add_SecretDiscoveryServiceServicer_to_server,
)

CLUSTER: Final = "sds-grpc"
_FILES: Final = "file-cert:"


class Secrets(SecretDiscoveryServiceServicer):  # type: ignore[misc] # xds-protos has no types
    """Answers each new list of names once."""

    def StreamSecrets(self, request_iterator: Iterator[DiscoveryRequest], context: Any) -> Iterator[DiscoveryResponse]:
        """The secrets that a stream asks for."""
        known: list[str] | None = None
        for request in request_iterator:
            if list(request.resource_names) != known:
                known = list(request.resource_names)
                yield _answer(request.type_url, known)


def _answer(kind: str, names: list[str]) -> DiscoveryResponse:
    answer = DiscoveryResponse(version_info="1", nonce="1", type_url=kind)
    for name in names:
        certificate, _, key = name.removeprefix(_FILES).partition("~")
        secret = Secret(name=name)
        secret.tls_certificate.certificate_chain.inline_bytes = Path(certificate).read_bytes()
        secret.tls_certificate.private_key.inline_bytes = Path(key).read_bytes()
        answer.resources.add().Pack(secret)
    return answer


def main(socket: str) -> None:
    """Serve until the process is ended."""
    server = grpc.server(ThreadPoolExecutor(4))
    add_SecretDiscoveryServiceServicer_to_server(Secrets(), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])

"""TLS of a server of HTTP/2. Used by both transports; grpcio makes its own of the same files."""

from __future__ import annotations

import ssl

from abmesh.experiment.errors import StartError
from ext_proc.settings import Tls


def server_context(tls: Tls) -> ssl.SSLContext:
    """What a server needs to speak HTTP/2 over TLS, and nothing older than TLS 1.2.

    Raises:
        StartError: a file cannot be read or does not hold what it should.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(tls.cert, tls.key)
        if tls.client_ca is not None:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(path) for path in (tls.cert, tls.key, tls.client_ca) if path is not None)
        raise StartError(f"cannot use the TLS files {files}: {error.strerror or error}") from error
    return context

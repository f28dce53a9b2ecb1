"""TLS for an HTTP/2 server. Both transports use it; grpcio only to check the files, which it then loads itself."""

from __future__ import annotations

import ssl

from abmesh.experiment.errors import StartError
from ext_proc.settings import Tls


def server_context(tls: Tls) -> ssl.SSLContext:
    """The TLS context of an HTTP/2 server, for TLS 1.2 or newer.

    Raises:
        StartError: a file is not readable or does not hold what it should.
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

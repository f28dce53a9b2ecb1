"""``HOST:PORT``, as the server and the controller listen on it. Pure; anything may import it."""

from __future__ import annotations

import re

_PORT = re.compile("[0-9]{1,5}")


def host_port(text: str) -> tuple[str, int] | None:
    """Split into host, without an IPv6 address's brackets, and port from 0 to 65535; None if it has another form."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    printable = bare.isprintable() and " " not in bare
    if not bare or not printable or (":" in bare and not bracketed) or not _is_host(bare):
        return None
    return (bare, int(port)) if _PORT.fullmatch(port) and int(port) <= 65535 else None


def _is_host(host: str) -> bool:
    """Whether DNS can look the name up at all: no label is empty or longer than 63 bytes."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True

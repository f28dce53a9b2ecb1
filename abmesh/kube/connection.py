"""How to reach the API server: inside a pod by its service account, elsewhere by the kubeconfig.

:mod:`abmesh.kube.client` and :mod:`abmesh.kube.watching` use a :class:`Connection`. In a pod we read the service
account's four values ourselves. A kubeconfig (contexts, client certificates, plugins that fetch tokens) is read by the
official client, which is imported only then: it takes 20 MB.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from abmesh.kube.errors import NotConfigured, Unauthorized, cause
from abmesh.kube.kubeconfig import NOBODY, Headers, User, user_of

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token, its namespace and the API server's CA."""

DEFAULT_NAMESPACE: Final = "default"
_PROTECTED = ("https://",)


@dataclass(frozen=True, slots=True)
class Connection:
    """A way to an API server.

    Attributes:
        server: its URL, without a slash at the end.
        ssl_context: None for plain HTTP.
        headers: makes the headers that authenticate a request, and may say as whom to act. Called for each one, since
            tokens are replaced; it may read a file or run a program.
        namespace: where to look if a command names none.
        server_name: the name in the API server's certificate, if it is not the URL's.
        proxy: URL of an HTTP proxy on the way; None for none.
    """

    server: str
    ssl_context: ssl.SSLContext | None
    headers: Callable[[], Headers]
    namespace: str
    server_name: str | None = None
    proxy: str | None = None


def connect(context: str | None = None, namespace: str | None = None) -> Connection:
    """The way to the API server that this process is meant to use.

    A context, or ``KUBECONFIG`` in the environment, asks for a kubeconfig. Without either, a process in a pod uses its
    service account, and any other the kubeconfig in the home folder.

    Args:
        context: of the kubeconfig; None for the current one.
        namespace: instead of the pod's or the context's.

    Raises:
        NotConfigured: there is none, or what is there cannot be used.
    """
    if in_pod(context):
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        return from_service_account(SERVICE_ACCOUNT, host, port, namespace)
    return _from_kubeconfig(context, namespace)


def in_pod(context: str | None = None) -> bool:
    """Whether :func:`connect` uses a pod's service account.

    Args:
        context: of the kubeconfig, which asks for that.
    """
    return context is None and not os.environ.get("KUBECONFIG") and bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def from_service_account(folder: Path, host: str, port: str, namespace: str | None = None) -> Connection:
    """The connection of a pod.

    Args:
        folder: where ``token``, ``ca.crt`` and ``namespace`` are.
        host: of the API server.
        port: of the API server.
        namespace: instead of the pod's.

    Raises:
        NotConfigured: one of the files cannot be read.
    """
    token = folder / "token"
    try:
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        token.read_bytes()
        own = namespace or (folder / "namespace").read_text().strip()
    except (OSError, ValueError) as error:
        raise NotConfigured(
            f"this is a pod, but its service account in {folder} cannot be read: {cause(error)}; "
            "mount it (automountServiceAccountToken: true), or set KUBECONFIG"
        ) from error

    shown = f"[{host}]" if ":" in host else host
    headers = User((), token).headers
    return Connection(f"https://{shown}:{port}", context, lambda: headers(None), own or DEFAULT_NAMESPACE)


def _from_kubeconfig(context: str | None, namespace: str | None) -> Connection:
    paths = os.environ.get("KUBECONFIG") or _home_kubeconfig()
    # expanduser leaves the ~ of a user without a home as it is; the file is then not found, and the message says so.
    if not any(Path(os.path.expanduser(path)).exists() for path in paths.split(os.pathsep) if path):  # noqa: PTH111
        raise NotConfigured(
            f"no kubeconfig: found no file at {paths}, and this is not a pod; allowed: a kubeconfig there, or its path "
            "in KUBECONFIG"
        )
    from kubernetes import config as official
    from kubernetes.client import Configuration

    found = Configuration()
    try:
        official.load_kube_config(paths, context, found, persist_config=False)
        contexts, current = official.list_kube_config_contexts(paths)
        chosen = current if context is None else next(each for each in contexts if each["name"] == context)
        acting = _user(paths, chosen["context"].get("user"))
        ssl_context = _tls(found) if found.host.startswith(_PROTECTED) else None
    except Exception as error:
        raise NotConfigured(f"the kubeconfig {paths} cannot be used: {cause(error)}") from error

    def headers() -> Headers:
        try:
            value = found.get_api_key_with_prefix("BearerToken", alias="authorization")
        except Exception as error:
            raise Unauthorized(f"the kubeconfig {paths} gives no token: {cause(error)}") from error
        return acting.headers(value)

    return Connection(
        found.host.rstrip("/"),
        ssl_context,
        headers,
        namespace or chosen["context"].get("namespace") or DEFAULT_NAMESPACE,
        found.tls_server_name or None,
        found.proxy or None,
    )


def _user(paths: str, name: str | None) -> User:
    """The user of that name in the first of several kubeconfigs that has one."""
    from kubernetes.config.kube_config import KubeConfigMerger

    found: Any = KubeConfigMerger(paths).config["users"].get_with_name(name, safe=True) if name else None
    if found is None:
        return NOBODY
    return user_of(found.value.get("user") or {}, Path(found.path or "").absolute().parent)


def _home_kubeconfig() -> str:
    try:
        return str(Path.home() / ".kube" / "config")
    except RuntimeError as error:
        raise NotConfigured(
            f"no kubeconfig: KUBECONFIG and HOME are not set, user id {os.getuid()} has no entry in the password file, "
            "and this is not a pod; set KUBECONFIG to a kubeconfig, or HOME to the folder that has .kube/config"
        ) from error


def _tls(found: object) -> ssl.SSLContext:
    """What the official client's configuration says of certificates, as Python's own context."""
    authority: str | None = getattr(found, "ssl_ca_cert", None)
    certificate: str | None = getattr(found, "cert_file", None)
    context = ssl.create_default_context(cafile=authority)
    if not getattr(found, "verify_ssl", True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate, getattr(found, "key_file", None))
    return context

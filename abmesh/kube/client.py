"""Requests to the API server, one at a time: read, write, patch, delete.

The controller and the command use it; it may be shared between threads. Objects are plain dicts, as the API server
writes them. Every failure is one of :mod:`abmesh.kube.errors`. Long-lived watches are in :mod:`abmesh.kube.watching`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import urllib3
from urllib3 import exceptions

from abmesh.kube.connection import Connection
from abmesh.kube.errors import Attempt, Unreachable, from_answer
from abmesh.kube.resources import Resource

Object = dict[str, Any]
"""An object as the API server writes it, in JSON."""

CONNECT_SECONDS: Final = 3.0
READ_SECONDS: Final = 10.0

_POOL: Final = 8
_JSON: Final = "application/json"
_STRICT: Final = {"fieldValidation": "Strict"}
"""Without it the API server drops fields that it does not know, and a typing error vanishes silently."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of objects.

    Attributes:
        items: the objects, each with its ``apiVersion`` and ``kind``.
        version: the list's resourceVersion, from which a watch goes on.
    """

    items: tuple[Object, ...]
    version: str


class Client:
    """Sends requests over kept-alive connections.

    Args:
        connection: the way to the API server.
        timeout: seconds to wait for an answer. A connection must be made in 3 seconds, or in this time if it is less.
    """

    def __init__(self, connection: Connection, timeout: float = READ_SECONDS) -> None:
        self.connection = connection
        limits = urllib3.Timeout(connect=min(CONNECT_SECONDS, timeout), read=timeout)
        options: dict[str, Any] = {"maxsize": _POOL, "retries": False, "timeout": limits}
        if connection.ssl_context is not None:
            options["ssl_context"] = connection.ssl_context
            if connection.server_name:
                options |= {"server_hostname": connection.server_name, "assert_hostname": connection.server_name}
            elif not connection.ssl_context.check_hostname:
                options |= {"assert_hostname": False, "cert_reqs": "CERT_NONE"}
        proxy = connection.proxy
        self._pool = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)

    def close(self) -> None:
        """Close all connections; the client may still be used."""
        self._pool.clear()

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """One object.

        Raises:
            KubeError: see :mod:`abmesh.kube.errors`.
        """
        return self._send("get", resource, namespace, name)

    def list(self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = "") -> Listed:
        """The objects of a namespace, or of all.

        Args:
            resource: their kind.
            namespace: None for all namespaces.
            labels: a label selector; empty for all objects.
            fields: a field selector; empty for all objects.

        Raises:
            KubeError: see :mod:`abmesh.kube.errors`.
        """
        query = {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}
        found = self._send("list", resource, namespace, query=query)
        return listed(resource, found)

    def create(self, resource: Resource, namespace: str | None, body: Object) -> Object:
        """Create an object; returns it as stored.

        Raises:
            AlreadyExists: there is one of that name.
            KubeError: see :mod:`abmesh.kube.errors`.
        """
        name = body.get("metadata", {}).get("name", "")
        return self._send("create", resource, namespace, body=body, query=_STRICT, about=name)

    def replace(self, resource: Resource, namespace: str | None, name: str, body: Object) -> Object:
        """Replace an object; with a ``resourceVersion`` in the body, only if it is still that one.

        Raises:
            Stale: it is no longer that one.
            KubeError: see :mod:`abmesh.kube.errors`.
        """
        return self._send("update", resource, namespace, name, body=body, query=_STRICT)

    def merge_patch(
        self, resource: Resource, namespace: str | None, name: str, body: Object, *, subresource: str | None = None
    ) -> Object:
        """Change some fields of an object (RFC 7396); with a ``resourceVersion``, only if it is still that one.

        Raises:
            Stale: it is no longer that one.
            KubeError: see :mod:`abmesh.kube.errors`.
        """
        kind = "application/merge-patch+json"
        return self._send("patch", resource, namespace, name, subresource, body=body, query=_STRICT, kind=kind)

    def json_patch(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        subresource: str | None = None,
    ) -> Object:
        """Change an object by operations (RFC 6902).

        Raises:
            Refused: a ``test`` failed, or an operation does not apply; the API server does not say which.
            Stale: a replaced ``/metadata/resourceVersion`` is no longer the object's.
            KubeError: see :mod:`abmesh.kube.errors`.
        """
        body, kind = [dict(operation) for operation in operations], "application/json-patch+json"
        return self._send("patch", resource, namespace, name, subresource, body=body, query=_STRICT, kind=kind)

    def apply(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        body: Object,
        *,
        manager: str = "abmesh",
        force: bool = False,
    ) -> Object:
        """Create an object or own some of its fields: server-side apply.

        Args:
            resource: its kind.
            namespace: where it is.
            name: of the object.
            body: the fields to own, with ``apiVersion``, ``kind`` and ``metadata.name``.
            manager: under which name to own them.
            force: whether to take fields from other managers.

        Raises:
            Stale: another manager owns a field with another value; the message names both.
            KubeError: see :mod:`abmesh.kube.errors`.
        """
        query = {**_STRICT, "fieldManager": manager, "force": "true" if force else "false"}
        kind = "application/apply-patch+yaml"  # JSON is YAML
        return self._send("patch", resource, namespace, name, body=body, query=query, kind=kind)

    def delete(self, resource: Resource, namespace: str | None, name: str, *, uid: str | None = None) -> None:
        """Delete an object.

        Args:
            resource: its kind.
            namespace: where it is.
            name: of the object.
            uid: delete only this one, not another of the same name.

        Raises:
            Missing: there is none.
            Stale: it has another uid.
            KubeError: see :mod:`abmesh.kube.errors`.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        self._send("delete", resource, namespace, name, body=options)

    def _send(
        self,
        verb: str,
        resource: Resource,
        namespace: str | None,
        name: str | None = None,
        subresource: str | None = None,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        kind: str = _JSON,
        about: str = "",
    ) -> Object:
        where = f"{resource.full_name}/{subresource}" if subresource else resource.full_name
        attempt = Attempt(verb, where, namespace or "", name or about)
        url = self.connection.server + resource.path(namespace, name, subresource)
        if query:
            url += "?" + urlencode(query)
        content = None if body is None else json.dumps(body).encode()
        answer = self._exchange(attempt, _METHODS[verb], url, content, kind)
        if not 200 <= answer.status < 300:
            raise from_answer(attempt, answer.status, answer.data)
        try:
            found = json.loads(answer.data)
        except ValueError as error:
            raise Unreachable(f"cannot {attempt}: the answer is not JSON", status=answer.status) from error
        if not isinstance(found, dict):
            raise Unreachable(f"cannot {attempt}: the answer is not an object", status=answer.status)
        return found

    def _exchange(
        self, attempt: Attempt, method: str, url: str, content: bytes | None, kind: str
    ) -> urllib3.BaseHTTPResponse:
        headers = urllib3.HTTPHeaderDict([("accept", _JSON), ("user-agent", "abmesh"), *self.connection.headers()])
        if content is not None:
            headers["content-type"] = kind
        # A kept-alive connection that the API server closes at this moment fails before anything is answered. A read
        # is simply asked again. A write may have been carried out, so its caller has to look.
        attempts = 2 if method == "GET" else 1
        while True:
            attempts -= 1
            try:
                return self._pool.request(method, url, body=content, headers=headers, redirect=False)
            except exceptions.ProtocolError as error:
                if not attempts:
                    raise self._unreachable(attempt, error) from error
            except exceptions.HTTPError as error:
                raise self._unreachable(attempt, error) from error

    def _unreachable(self, attempt: Attempt, error: exceptions.HTTPError) -> Unreachable:
        if isinstance(error, exceptions.NewConnectionError):
            cause = f"cannot connect: {error.__cause__ or error}"
        elif isinstance(error, exceptions.TimeoutError):
            cause = "no answer in time"
        else:
            cause = str(error)
        return Unreachable(f"cannot {attempt}: {self.connection.server}: {' '.join(cause.split())[:500]}")


_METHODS: Final = {
    "get": "GET",
    "list": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
}


def listed(resource: Resource, found: Object) -> Listed:
    """The items of a list as they would be alone: lists leave ``apiVersion`` and ``kind`` of their items out."""
    own = {"apiVersion": resource.api_version, "kind": resource.kind}
    items = tuple({**own, **item} for item in found.get("items") or ())
    return Listed(items, str(found.get("metadata", {}).get("resourceVersion", "")))

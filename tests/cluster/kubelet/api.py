"""The kubelet's calls of the API server. Asks for no more than JSON, and keeps no state."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

Object = dict[str, Any]
"""An object of Kubernetes, as JSON has it."""

OLD_VERSION = 410
WATCH_SECONDS = 60


class ApiError(Exception):
    """The API server said no.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """The API server, as one user sees it."""

    def __init__(self, session: aiohttp.ClientSession, server: str, token: str) -> None:
        self._session = session
        self._server = server
        self._headers = {"authorization": f"Bearer {token}"}

    async def call(self, method: str, path: str, body: Object | None = None, form: str = "application/json") -> Object:
        """Call it; what it answers.

        Args:
            method: of HTTP.
            path: below the server, with a query.
            body: to send.
            form: content type of the body.

        Raises:
            ApiError: it refused.
            aiohttp.ClientError: it is not there.
        """
        headers = self._headers | {"content-type": form}
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, self._server + path, data=data, headers=headers) as response:
            answer: Object = await response.json(content_type=None)
            if response.status >= 400:
                raise ApiError(response.status, str(answer.get("message", answer)))
            return answer

    async def find(self, path: str) -> Object | None:
        """An object, or None if there is none."""
        try:
            return await self.call("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def patch(self, path: str, body: Object) -> Object:
        """Merge into an object as kubectl does."""
        return await self.call("PATCH", path, body, "application/strategic-merge-patch+json")

    async def watch(self, path: str, version: str) -> AsyncIterator[tuple[str, Object]]:
        """Events ``(type, object)`` from a resource version on, until the server ends the watch.

        Raises:
            ApiError: the version is too old, or the server refused.
            aiohttp.ClientError: the connection broke.
        """
        address = f"{self._server}{path}?watch=1&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}"
        limit = aiohttp.ClientTimeout(total=WATCH_SECONDS + 10, sock_connect=3)
        async with self._session.get(address, headers=self._headers, timeout=limit) as response:
            if response.status != 200:
                raise ApiError(response.status, await response.text())
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", OLD_VERSION), str(event["object"].get("message")))
                    yield event["type"], event["object"]

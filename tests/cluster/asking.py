"""Requests as users of a gateway send them, and what they get."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]
HOST: Final = "chat.example.com"
OTHER_HOST: Final = "other.example.com"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got, and what the upstream says that it was sent."""

    status: int
    version: str
    upstream: Json
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Door:
    """Where a gateway lets users in.

    Attributes:
        url: of the gateway's pod.
        trust: whom to trust, where the gateway has a certificate.
    """

    url: str
    trust: ssl.SSLContext | None = None

    def ask(
        self, user: str = "", host: str = HOST, path: str = "/v1/x", *, method: str = "GET", **headers: str
    ) -> Answer:
        """One request; underscores in the names of headers stand for dashes."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()} | {"host": host}
        sent |= {"x-user-id": user} if user else {}
        request = urllib.request.Request(self.url + path, headers=sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=15, context=self.trust) as answer:
                return _answer(answer.status, answer)
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error.code, error)

    def ask_all(self, users: Sequence[str], **more: str) -> list[Answer]:
        """One request of each user, some at a time."""
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda user: self.ask(user, **more), users))

    def serves(self, **more: str) -> bool:
        """Whether it answers with success at all."""
        try:
            return self.ask(**more).status == 200
        except OSError:
            return False


def ask(url: str, user: str = "", **more: str) -> Answer:
    """See :meth:`Door.ask`."""
    return Door(url).ask(user, **more)


def ask_all(url: str, users: Sequence[str], **more: str) -> list[Answer]:
    """See :meth:`Door.ask_all`."""
    return Door(url).ask_all(users, **more)


def _answer(status: int, answer: Any) -> Answer:
    text = answer.read().decode()
    upstream = json.loads(text) if text.startswith("{") else {}
    found = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(status, found.get("x-model-version", ""), upstream, found)


class Named(ssl.SSLContext):
    """Trusts one certificate, and asks for it by a host's name, whatever address it calls."""

    name = HOST

    @classmethod
    def trusting(cls, certificate: str) -> Named:
        """Trust a certificate, as PEM."""
        made = cls(ssl.PROTOCOL_TLS_CLIENT)
        made.load_verify_locations(cadata=certificate)
        return made

    def wrap_socket(self, sock: Any, *arguments: Any, **more: Any) -> ssl.SSLSocket:
        """See :class:`ssl.SSLContext`."""
        return super().wrap_socket(sock, *arguments, **(more | {"server_hostname": self.name}))

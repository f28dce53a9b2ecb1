"""An API server in this process, for unit tests of one module: objects, versions, watches, and faults on demand.

It knows no schema, no roles and no controllers; what depends on those is tested in ``tests/cluster/``.

    with FakeApi().running() as api:
        api.put(EXPERIMENTS, "llm", "chat", spec={...})
        client = api.client()
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from abmesh.kube.client import Client
from abmesh.kube.connection import Connection
from abmesh.kube.kubeconfig import Headers
from abmesh.kube.resources import EXPERIMENTS, Resource
from tests.abmesh.kube.fake_objects import Key, Object, Objects, Refusal, selected

T = TypeVar("T")

APPLY = "application/apply-patch+yaml"
_VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass
class Fault:
    """A refusal instead of the answer, to ``times`` requests with ``where`` in their method, URL and a space."""

    refusal: Refusal
    where: str
    times: int


class FakeApi:
    """The server; its methods may be called from any thread while it runs.

    Attributes:
        seen: the requests so far.
        token: what clients must send; nothing while it is empty.
        sends: what :attr:`connection` sends.
    """

    def __init__(self) -> None:
        self.objects = Objects(frozenset({EXPERIMENTS.full_name}))
        self.seen: list[Seen] = []
        self.token = self.sends = ""
        self.port = 0
        self._faults: list[Fault] = []
        self._oldest = 0
        self._endings: list[Object | None] = []
        self._terminating: set[str] = set()
        self._absent: set[str] = set()
        self._thawed = asyncio.Event()
        self._news = asyncio.Event()
        self._running: dict[int, web.Request] = {}

    @property
    def connection(self) -> Connection:
        """A way to this server."""
        return Connection(f"http://127.0.0.1:{self.port}", None, self._headers, "default")

    def client(self, timeout: float = 5.0) -> Client:
        return Client(self.connection, timeout)

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeApi]:
        """Serve while the context lasts; on the same port, and with the same objects, if it is run again."""
        self._loop = asyncio.new_event_loop()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(runner), self._loop).result(10)
            yield self
        finally:
            self.cut()
            asyncio.run_coroutine_threadsafe(_stop(runner), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def put(self, resource: Resource, namespace: str, name: str, **fields: Any) -> Object:
        """Create or replace an object with its status, as somebody else would."""
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **fields}
        return copy.deepcopy(self._do(lambda: self.objects.store((resource.full_name, namespace, name), body)))

    def read(self, resource: Resource, namespace: str, name: str) -> Object:
        return copy.deepcopy(self._do(lambda: self.objects.get((resource.full_name, namespace, name))))

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        self._do(lambda: self.objects.delete((resource.full_name, namespace, name)))

    def fail(self, status: int, where: str = "", times: int = 1, reason: str = "", message: str = "broken") -> None:
        """Refuse requests with ``where`` in their method and URL."""
        self._do(lambda: self._faults.append(Fault(Refusal(status, reason, message), where, times)))

    def heal(self) -> None:
        self._do(self._faults.clear)

    def freeze(self) -> None:
        """Answer nothing, and send no events, until :meth:`thaw`."""
        self._do(self._thawed.clear)

    def thaw(self) -> None:
        self._do(self._thawed.set)

    def compact(self) -> None:
        """Forget the history: a watch from before must list again."""
        self._do(lambda: setattr(self, "_oldest", self.objects.version))

    def end_watches(self, error: Object | None = None) -> None:
        """End all running watches, after an ERROR event if one is given."""
        self._do(lambda: self._endings.append(error))

    def cut(self) -> None:
        """Break all connections off."""

        def cut() -> None:
            for request in list(self._running.values()):
                if request.transport is not None:
                    request.transport.abort()

        self._do(cut)

    def delete_kind(self, resource: Resource) -> None:
        """Delete a CRD, as the API server does it: its objects first, one by one, while it can still be listed."""
        self._do(lambda: self._terminating.add(resource.full_name))
        for key in [key for key in self.objects.known if key[0] == resource.full_name]:
            self._do(functools.partial(self.objects.delete, key))
        self._do(lambda: self._absent.add(resource.full_name))
        self.end_watches()

    def create_kind(self, resource: Resource) -> None:
        self._do(lambda: self._absent.discard(resource.full_name))
        self._do(lambda: self._terminating.discard(resource.full_name))

    def _do(self, change: Callable[[], T]) -> T:
        async def on_loop() -> T:
            done = change()
            self._news.set()
            self._news = asyncio.Event()
            return done

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(5)

    def _headers(self) -> Headers:
        return [("authorization", f"Bearer {self.sends}")] if self.sends else []

    async def _start(self, runner: web.AppRunner) -> None:
        self._news, self._thawed = asyncio.Event(), asyncio.Event()
        self._thawed.set()
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = runner.addresses[0][1]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        seen = Seen(
            request.method, request.path, dict(request.query), request.headers, json.loads(text) if text else None
        )
        self.seen.append(seen)
        self._running[id(request)] = request
        try:
            await self._thawed.wait()
            self._check(request)
            return await self._handle(request, seen)
        except Refusal as refusal:
            return web.json_response(refusal.status(), status=refusal.code)
        except ConnectionResetError:
            return web.Response()  # nobody reads it
        finally:
            del self._running[id(request)]

    def _check(self, request: web.Request) -> None:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            raise Refusal(401, "Unauthorized", "Unauthorized")
        for fault in self._faults:
            if fault.where in f"{request.method} {request.path_qs} " and fault.times > 0:
                fault.times -= 1
                raise fault.refusal

    async def _handle(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        parts = seen.path.strip("/").split("/")
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
        if not rest:
            return web.json_response(self._discovery(group))
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = (*rest, "", "")[:3]
        kind = f"{plural}.{group}" if group else plural
        if kind in self._absent:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        if seen.query.get("watch") == "true":
            return await self._watch(request, kind, namespace)
        if not name and seen.method == "GET":
            return web.json_response(self.objects.list(kind, namespace, seen.query))
        key = (kind, namespace, name or seen.body["metadata"]["name"])
        found = self._carry_out(key, seen, subresource)
        self._news.set()
        self._news = asyncio.Event()
        return web.json_response(found, status=201 if seen.method == "POST" else 200)

    def _carry_out(self, key: Key, seen: Seen, subresource: str) -> Object:
        form = seen.headers.get("content-type", "")
        if seen.method == "GET":
            return self.objects.get(key)
        if seen.method == "POST":
            return self.objects.create(key, seen.body)
        if seen.method == "DELETE":
            return self.objects.delete(key, (seen.body or {}).get("preconditions", {}).get("uid"))
        if seen.method == "PUT":
            return self.objects.replace(key, seen.body, subresource)
        return (
            self.objects.apply(key, seen.body)
            if form == APPLY
            else self.objects.patch(key, seen.body, form, subresource)
        )

    def _discovery(self, group: str) -> Object:
        names = {key[0] for key in self.objects.known} | {EXPERIMENTS.full_name} | self._terminating
        resources = []
        for name in sorted(names - self._absent):
            plural, _, of = name.partition(".")
            verbs = [verb for verb in _VERBS if verb != "create" or name not in self._terminating]
            resources += [{"name": plural, "verbs": verbs}] if of == group else []
        return {"kind": "APIResourceList", "resources": resources}

    async def _watch(self, request: web.Request, kind: str, namespace: str) -> web.StreamResponse:
        place = int(request.query["resourceVersion"])
        if place < self._oldest:
            raise Refusal(410, "Expired", f"too old resource version: {place} ({self._oldest})")
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        loop = asyncio.get_running_loop()
        ends = loop.time() + float(request.query.get("timeoutSeconds", "60"))
        endings = len(self._endings)
        while (left := ends - loop.time()) > 0:
            news = self._news
            await self._thawed.wait()
            for version, event, of, item in [each for each in self.objects.history if each[0] > place]:
                place = version
                mine = of == kind and namespace in ("", item["metadata"].get("namespace", ""))
                if mine and selected(item, request.query):
                    await response.write(_event(event, item))
            if len(self._endings) > endings:
                if error := self._endings[endings]:
                    await response.write(_event("ERROR", error))
                return response
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), left)
        await response.write(_event("BOOKMARK", {"metadata": {"resourceVersion": str(self.objects.version)}}))
        return response


async def _stop(runner: web.AppRunner) -> None:
    await runner.cleanup()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _event(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"

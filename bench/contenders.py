"""The ways to split traffic that are compared, each with what it needs. :mod:`bench.running` starts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Literal

from bench import documents, go_server
from ext_proc.settings import DEFAULT_TRANSPORT, Transport

Kind = Literal["alone", "statistics", "native_split", "native_alone", "native", "lua", "ext_proc", "go", "application"]

REFERENCE: Final = "envoy_alone"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to split traffic.

    Attributes:
        name: as the results name it.
        meaning: what it is, in a few words.
        kind: who assigns, and what else is there.
        workers: processes of our server, processors that the Go server may use at a time, or processes of uvicorn.
        transport: of our server, if it has one; by default the one that it has by default.
        unix: whether Envoy reaches our server over a Unix socket instead of TCP.
        client: of an application-level router: one for every request, or one that all share.
        most: most requests of a round, for those that are too slow for as many as the others get.
    """

    name: str
    meaning: str
    kind: Kind
    workers: int = 0
    transport: Transport = DEFAULT_TRANSPORT
    unix: bool = False
    client: Literal["shared", "per_request"] = "shared"
    most: int | None = None

    @property
    def has_envoy(self) -> bool:
        """Whether requests pass an Envoy."""
        return self.kind != "application"

    @property
    def lane(self) -> documents.Lane:
        """Of the document that is served."""
        return "native" if self.kind.startswith("native") else "ext_proc"

    @property
    def assigns(self) -> bool:
        """Whether every answer says which variant gave it."""
        return self.kind != "alone"

    def count(self, wanted: int) -> int:
        """How many requests a round has."""
        return wanted if self.most is None else min(wanted, self.most)


def _ext_proc(transport: Transport, workers: int, *, unix: bool = False) -> Contender:
    name = f"{transport}_{workers}_worker{'s' if workers > 1 else ''}{'_unix' if unix else ''}"
    meaning = f"abmesh ext-proc --transport {transport} over {'a Unix socket' if unix else 'TCP'}"
    return Contender(name, meaning, "ext_proc", workers, transport, unix, most=4000 if transport == "grpcio" else None)


CONTENDERS: Final = (
    Contender(REFERENCE, "plain weighted_clusters and nothing of abmesh", "alone"),
    Contender("native_split", "the native lane's routes alone, as plain weighted_clusters are", "native_split"),
    Contender("native_alone", "the same, and the headers that tell who was chosen", "native_alone"),
    Contender("native", "the native lane as rendered, with all that abmesh measures", "native"),
    Contender("envoy_with_statistics", "weighted_clusters and all that abmesh measures", "statistics"),
    Contender("lua_split", "a hash split in a Lua filter, written by hand; no statistics", "lua"),
    _ext_proc("nghttp2", 1),
    _ext_proc("nghttp2", 1, unix=True),
    _ext_proc("nghttp2", 2),
    _ext_proc("grpcio", 1),
    _ext_proc("grpcio", 2),
    Contender("go_1_processor", "an ext_proc server in Go with the same law, GOMAXPROCS=1", "go", workers=1),
    Contender("go_2_processors", "the same with GOMAXPROCS=2", "go", workers=2),
    Contender(
        "fastapi_shared_client",
        "FastAPI and httpx with one client, no Envoy",
        "application",
        workers=1,
        client="shared",
        most=1000,
    ),
    Contender(
        "fastapi_client_per_request",
        "FastAPI and httpx with a client for every request, no Envoy",
        "application",
        workers=1,
        client="per_request",
        most=60,
    ),
)

BY_NAME: Final[Mapping[str, Contender]] = {contender.name: contender for contender in CONTENDERS}


def missing(contender: Contender) -> str:
    """What a contender needs and does not find on this machine; empty if it can start."""
    if contender.kind == "go":
        return go_server.missing()
    modules: list[str] = []
    if contender.kind in ("ext_proc", "native") and contender.transport == "nghttp2":
        modules = ["ngh2"]
    elif contender.kind == "application":
        modules = ["fastapi", "httpx", "uvicorn"]
    absent = [name for name in modules if find_spec(name) is None]
    return f"not installed: {', '.join(absent)}; with uv or pip: the dependency group bench" if absent else ""


def chosen(
    names: Sequence[str], lacks: Callable[[Contender], str] = missing
) -> tuple[list[Contender], list[dict[str, str]]]:
    """Those contenders that can start, in their order, and for each other one why not.

    Args:
        names: of those that are wanted; empty: all.
        lacks: says what a contender needs and does not find.
    """
    wanted = [contender for contender in CONTENDERS if not names or contender.name in names]
    reasons = {contender.name: lacks(contender) for contender in wanted}
    skipped = [{"name": name, "reason": reason} for name, reason in reasons.items() if reason]
    return [contender for contender in wanted if not reasons[contender.name]], skipped

"""Merging abmesh into a named route of somebody's own Envoy, and taking it out again. Pure.

Called by ``abmesh render envoy --into``. Merging first takes out what an earlier merge put in, so that it gives the
same bytes however often it is repeated, and follows the document when that has changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

from abmesh.experiment import names
from abmesh.experiment.errors import RenderError
from abmesh.experiment.model import Document, Experiment
from abmesh.mesh.merge import check, out
from abmesh.mesh.merge.add_clusters import add_clusters
from abmesh.mesh.merge.check import Destination
from abmesh.mesh.merge.find import Found, Names, find
from abmesh.mesh.merge.look import get, items, plain, text
from abmesh.mesh.merge.pieces import Json, Part, Pieces, Takeover, Unassigned
from abmesh.mesh.merge.splice import Editor
from abmesh.mesh.merge.tree import Mapping, Sequence, compose

ALL: Final = frozenset(Part)

Take = Callable[[str, Destination, list[Experiment], Unassigned | None], Takeover]
"""What becomes of a route: from its name, its own destination, the experiments on it, and where requests without an
assignment go, if somebody has chosen that."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to merge.

    Attributes:
        document: the experiments.
        pieces: what the whole Envoy gets.
        take: what becomes of the route.
        parts: which parts to merge.
        before: name of the filter that ours come before; empty: where they already are, else the router.
        unassigned: where the route's requests without an assignment go; None: as is usual for such a route.
    """

    document: Document
    pieces: Pieces
    take: Take
    parts: Collection[Part] = ALL
    before: str = ""
    unassigned: Unassigned | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """The configuration, and what its operator should know."""

    text: str
    notes: tuple[str, ...] = ()


def merge(content: str, route: Names, wanted: Wanted) -> Merged:
    """Put abmesh into the named route, and again into those that have it: one Envoy is of one document.

    Args:
        content: the configuration, YAML or JSON.
        route: which route.
        wanted: what to merge.

    Raises:
        RenderError: a route cannot be found or taken over, or the file cannot be edited; nothing is half done.
    """
    made = _merge(content, route, wanted)
    notes = list(made.notes)
    for other, unassigned in _others(made.text, route):
        try:
            made = _merge(made.text, other, replace(wanted, before="", unassigned=unassigned))
        except RenderError as error:
            raise RenderError(
                f"{error}. This route was merged earlier and must follow the document, too; to take it out: "
                f"--remove --listener {shlex.quote(other.listener)} --virtual-host {shlex.quote(other.virtual_host)} "
                f"--route {shlex.quote(other.route)}"
            ) from error
        notes += made.notes
    return Merged(made.text, tuple(dict.fromkeys(notes)))


def _others(content: str, route: Names) -> list[tuple[Names, Unassigned | None]]:
    """The other routes that abmesh has taken over, and what was chosen for their requests without an assignment."""
    root = compose(content, route.source)
    named = find(root, route).route
    return [
        (Names(route.source, at.listener, text(at.host, "name"), text(other, "name")), out.unassigned_of(other))
        for at, other in out.taken_over(root)
        if other is not named
    ]


def _merge(content: str, route: Names, wanted: Wanted) -> Merged:
    before = Editor(content, route.source)
    found = find(before.root, route)
    place = _filters_before(found, wanted.before, route.source)
    if Part.ROUTES in wanted.parts and out.original_of(found.route) is not None:
        out.restore_route(before, found)
    out.remove_shared(before, found.at, wanted.parts)
    editor = Editor(before.result(), route.source)
    found = find(editor.root, route)
    notes: list[str] = []
    if Part.ROUTES in wanted.parts:
        notes += _take_over(editor, found, wanted)
    if Part.FILTERS in wanted.parts:
        _add_filters(editor, found, place, wanted.pieces)
    if Part.ACCESS_LOGS in wanted.parts:
        editor.put(found.at.manager, ["access_log"], list(wanted.pieces.access_log))
        buckets = ["stats_config", "histogram_bucket_settings"]
        _put_first(editor, editor.root, buckets, list(wanted.pieces.histogram_buckets))
    if Part.CLUSTERS in wanted.parts:
        notes += add_clusters(editor, wanted.document, wanted.pieces)
    if Part.ROUTES in wanted.parts:
        editor.put(editor.root, ["node", "metadata"], {names.METADATA_NAMESPACE: dict(wanted.pieces.node_metadata)})
        notes += _left_behind(before, wanted)
    return Merged(editor.result(), tuple(notes + _notes(found, wanted)))


def remove(content: str, route: Names) -> str:
    """Take abmesh out of the named route, and out of the whole file if no other route needs it.

    Raises:
        RenderError: the route cannot be found, was not taken over, or the file cannot be edited.
    """
    editor = Editor(content, route.source)
    found = find(editor.root, route)
    others = [(at, other) for at, other in out.taken_over(editor.root) if other is not found.route]
    out.restore_route(editor, found)
    if not others:
        out.remove_shared(editor, found.at, ALL)
        return editor.result()
    # What the whole Envoy has is needed by the others.
    if all(at.host is not found.at.host for at, _ in others):
        out.remove_from_host(editor, found.at)
    if all(at.manager is not found.at.manager for at, _ in others):
        out.remove_from_manager(editor, found.at, ALL)
    return editor.result()


def _left_behind(before: Editor, wanted: Wanted) -> list[str]:
    """What the node's metadata, which goes with the routes, then says too early of the other parts."""
    missing = [part for part in Part if part not in wanted.parts]
    said = get(before.root, "node", "metadata", names.METADATA_NAMESPACE)
    if not missing or said is None or plain(said) == dict(wanted.pieces.node_metadata):
        return []
    return [
        f"the document has changed, and Envoy now says that it has all of it: merge {', '.join(missing)}, too, unless "
        f"you have"
    ]


def _take_over(editor: Editor, found: Found, wanted: Wanted) -> list[str]:
    source, route = editor.source, found.route
    field, own = check.destination(source, found)
    experiments = [item for item in wanted.document.experiments if check.reaches(found, item)]
    if not experiments:
        known = ", ".join(f"{item.name} ({item.match.path_prefix})" for item in wanted.document.experiments) or "none"
        raise RenderError(
            f"{source}:{route.line}: no request of an experiment takes the route {text(route, 'name')!r}; there is: "
            f"{known}; name another route, or change an experiment's match"
        )
    # What an earlier route takes is that one's; if it takes everything, there is nothing left to serve.
    hidden = {item.name: before for item in experiments if (before := check.shadow(found, item))}
    experiments = [item for item in experiments if item.name not in hidden] or experiments
    check.check_experiments(source, found, wanted.document, experiments)
    check.check_hosts(source, found, experiments)
    notes = check.check_order(source, found, experiments, events=bool(wanted.pieces.first_routes))
    notes += [
        f"the route {before} comes before {text(route, 'name')!r} and takes every request of the experiment {name!r}"
        for name, before in hidden.items()
    ]
    took = wanted.take(text(route, "name"), own, experiments, wanted.unassigned)
    action = get(route, "route")
    assert isinstance(action, Mapping)
    original = editor.raw(action, field)
    editor.replace(action, field, "weighted_clusters", took.weighted_clusters)
    editor.put(route, ["typed_per_filter_config"], took.typed_per_filter_config)
    if took.response_headers_to_add:
        editor.put(route, ["response_headers_to_add"], list(took.response_headers_to_add))
    mark: Json = {out.ORIGINAL: original}
    if wanted.unassigned is not None:
        mark[out.UNASSIGNED] = str(wanted.unassigned)
    editor.put(route, ["metadata", "filter_metadata"], {names.METADATA_NAMESPACE: mark})
    editor.insert(found.at.routes, 0, list(wanted.pieces.first_routes))
    return notes


def _add_filters(editor: Editor, found: Found, place: int, pieces: Pieces) -> None:
    manager = found.at.manager
    filters = get(manager, "http_filters")
    assert isinstance(filters, Sequence)  # see _filters_before
    editor.insert(filters, place, list(pieces.http_filters))
    _put_first(editor, manager, ["local_reply_config", "mappers"], list(pieces.reply_mappers))
    mutations = [dict(item) for item in pieces.early_header_mutations]
    if get(manager, "common_http_protocol_options", "max_headers_count") is None:
        mutations[-1]["name"] += out.LIMITING
        editor.put(manager, ["common_http_protocol_options"], {"max_headers_count": pieces.max_headers})
    editor.put(manager, ["early_header_mutation_extensions"], mutations)


def _put_first(editor: Editor, mapping: Mapping, path: list[str], values: list[Json]) -> None:
    """Put items before theirs: Envoy takes the first that fits."""
    theirs = get(mapping, *path)
    if isinstance(theirs, Sequence) and theirs.items:
        editor.insert(theirs, 0, values)
    else:
        editor.put(mapping, path, values)


def _filters_before(found: Found, before: str, source: str) -> int:
    """How many filters that are not ours come before ours."""
    present = [text(item, "name") for item in items(found.at.manager, "http_filters")]
    theirs = [name for name in present if not name.startswith(out.PREFIX)]
    if not theirs:
        raise RenderError(f"{source}: listener {found.at.listener!r} has no http_filters; it needs at least a router")
    if before:
        if before not in theirs:
            raise RenderError(f"{source}: no filter named {before!r}; there is: {', '.join(theirs)}")
        return theirs.index(before)
    first = next((place for place, name in enumerate(present) if name.startswith(out.PREFIX)), None)
    return len(theirs) - 1 if first is None else first


def _notes(found: Found, wanted: Wanted) -> list[str]:
    """What an operator should change in their own part."""
    notes = []
    cookies = [item.issue_cookie for item in wanted.document.experiments if item.issue_cookie is not None]
    if any(cookie.secure == "auto" for cookie in cookies) and text(found.at.manager, "use_remote_address") != "true":
        notes.append(
            "use_remote_address is off, so whoever connects decides with x-forwarded-proto whether issued cookies are "
            "Secure; turn it on if clients connect to this Envoy, or set secure: true"
        )
    limit = text(found.at.manager, "common_http_protocol_options", "max_headers_count")
    if limit.isdecimal() and int(limit) < wanted.pieces.max_headers and not out.has_our_limit(found.at.manager):
        notes.append(
            f"max_headers_count is {limit}: abmesh and Envoy add up to 20 headers, so a request with more than "
            f"{max(int(limit) - 20, 0)} may get 431; set {wanted.pieces.max_headers}, or 20 more than clients may send"
        )
    filters = items(found.at.manager, "http_filters")
    if any(text(item, "typed_config", "suppress_envoy_headers") == "true" for item in filters):
        notes.append(
            "the router's suppress_envoy_headers is on: a model's answers cannot be told from Envoy's own; turn it off"
        )
    return notes

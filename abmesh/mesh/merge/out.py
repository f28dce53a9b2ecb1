"""Taking abmesh's pieces out of a configuration, so that it is as it was. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection

from abmesh.experiment import names
from abmesh.experiment.errors import RenderError
from abmesh.mesh import warmup
from abmesh.mesh.edge import TOO_MANY
from abmesh.mesh.merge.find import Found, Host, describe, hosts, is_ours
from abmesh.mesh.merge.look import get, items, own_entry, text
from abmesh.mesh.merge.pieces import Part, Unassigned
from abmesh.mesh.merge.splice import Editor
from abmesh.mesh.merge.tree import Mapping, Node, Scalar, Sequence

PREFIX = "abmesh."
"""Start of the names of our filters and loggers."""

ORIGINAL = "original"
"""Key of our metadata on a route that was taken over: its destination as it was written."""

UNASSIGNED = "unassigned"
"""Key of our metadata on such a route: what was chosen with ``--unassigned``, if anything."""

LIMITING = "+max_headers_count"
"""End of the name of our header mutation in a connection manager whose limit on headers is ours, too."""

_STATS = f"{names.STATS_SCOPE}."

_Is = Callable[[Node], bool]


def taken_over(root: Mapping) -> list[tuple[Host, Node]]:
    """The routes that abmesh has taken over."""
    return [(at, route) for at in hosts(root) for route in items(at.host, "routes") if original_of(route) is not None]


def original_of(route: Node) -> str | None:
    """The destination of a route before it was taken over, as it was written; None if it was not."""
    found = get(route, "metadata", "filter_metadata", names.METADATA_NAMESPACE, ORIGINAL)
    return found.text if isinstance(found, Scalar) else None


def unassigned_of(route: Node) -> Unassigned | None:
    """What was chosen for the requests without an assignment of a route that was taken over; None for nothing."""
    found = text(route, "metadata", "filter_metadata", names.METADATA_NAMESPACE, UNASSIGNED)
    return Unassigned(found) if found in list(Unassigned) else None


def restore_route(editor: Editor, found: Found) -> None:
    """Give a route its own destination back.

    Raises:
        RenderError: it was not taken over, or somebody has changed it since.
    """
    route, original = found.route, original_of(found.route)
    action = get(route, "route")
    if original is None or not isinstance(action, Mapping) or own_entry(action, "weighted_clusters") is None:
        raise RenderError(f"{editor.source}:{route.line}: abmesh has not taken over the route {describe(route)}")
    editor.put_raw(action, "weighted_clusters", original)
    _drop_ours(editor, route, "response_headers_to_add", _is_cookie)
    config = get(route, "typed_per_filter_config")
    if isinstance(config, Mapping):
        ours = [key.text for key, _ in config.entries if key.text.startswith(PREFIX)]
        editor.drop_fields([(route, "typed_per_filter_config")], config, ours)
    _drop_path(editor, route, ["metadata", "filter_metadata", names.METADATA_NAMESPACE])


def remove_shared(editor: Editor, at: Host, parts: Collection[Part]) -> None:
    """Take out what serves every route: of one virtual host, of its connection manager, and of the whole Envoy."""
    if Part.ROUTES in parts:
        remove_from_host(editor, at)
    remove_from_manager(editor, at, parts)
    _remove_from_envoy(editor, parts)


def remove_from_host(editor: Editor, at: Host) -> None:
    """Take our routes of events out of a virtual host."""
    _drop_ours(editor, at.host, "routes", is_ours)


def remove_from_manager(editor: Editor, at: Host, parts: Collection[Part]) -> None:
    """Take our filters and access loggers out of a connection manager."""
    if Part.FILTERS in parts:
        _drop_ours(editor, at.manager, "http_filters", _is_named)
        if has_our_limit(at.manager):
            _drop_path(editor, at.manager, ["common_http_protocol_options", "max_headers_count"])
        _drop_ours(editor, at.manager, "early_header_mutation_extensions", _is_named)
        _drop_below(editor, at.manager, "local_reply_config", "mappers", _is_reply)
    if Part.ACCESS_LOGS in parts:
        _drop_ours(editor, at.manager, "access_log", _is_named)


def _remove_from_envoy(editor: Editor, parts: Collection[Part]) -> None:
    root = editor.root
    if Part.ACCESS_LOGS in parts:
        _drop_below(editor, root, "stats_config", "histogram_bucket_settings", _is_bucket)
    if Part.ROUTES in parts:
        _drop_path(editor, root, ["node", "metadata", names.METADATA_NAMESPACE])
    resources = get(root, "static_resources")
    if Part.CLUSTERS in parts and isinstance(resources, Mapping):
        _drop_ours(editor, resources, "clusters", is_our_cluster)
        _drop_ours(editor, resources, "listeners", lambda item: text(item, "name") == warmup.NAME)


def is_our_cluster(cluster: Node) -> bool:
    """Whether abmesh has added a cluster."""
    mark = get(cluster, "metadata", "filter_metadata", names.METADATA_NAMESPACE)
    return text(cluster, "name") == names.EXT_PROC_CLUSTER or mark is not None


def has_our_limit(manager: Mapping) -> bool:
    """Whether a connection manager's limit on headers is ours."""
    found = items(manager, "early_header_mutation_extensions")
    return any(_is_named(item) and text(item, "name").endswith(LIMITING) for item in found)


def _is_named(item: Node) -> bool:
    return text(item, "name").startswith(PREFIX)


def _is_cookie(option: Node) -> bool:
    return f"%DYNAMIC_METADATA({names.METADATA_NAMESPACE}:" in text(option, "header", "value")


def _is_bucket(setting: Node) -> bool:
    return text(setting, "match", "prefix") == _STATS


def _is_reply(mapper: Node) -> bool:
    return any(
        text(part, "extension_filter", "typed_config", "expression") == TOO_MANY
        for part in items(mapper, "filter", "and_filter", "filters")
    )


def _drop_ours(editor: Editor, mapping: Mapping, key: str, ours: _Is) -> None:
    found = get(mapping, key)
    if isinstance(found, Sequence):
        places = [place for place, item in enumerate(items(mapping, key)) if ours(item)]
        editor.drop_items([(mapping, key)], found, places)


def _drop_below(editor: Editor, mapping: Mapping, key: str, field: str, ours: _Is) -> None:
    inside = get(mapping, key)
    found = get(inside, field)
    if isinstance(inside, Mapping) and isinstance(found, Sequence):
        places = [place for place, item in enumerate(items(inside, field)) if ours(item)]
        editor.drop_items([(mapping, key), (inside, field)], found, places)


def _drop_path(editor: Editor, mapping: Mapping, path: list[str]) -> None:
    steps: list[tuple[Mapping, str]] = []
    node: Node | None = mapping
    for key in path:
        if not isinstance(node, Mapping) or own_entry(node, key) is None:
            return
        steps.append((node, key))
        node = get(node, key)
    editor.drop_upwards(steps)

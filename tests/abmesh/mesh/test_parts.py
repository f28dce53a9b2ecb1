"""An edit that changes the bootstrap changes the digest of the part that was edited, and no other edit changes one."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st

from abmesh.experiment.model import Document
from abmesh.mesh import edge, parts
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from tests.abmesh.mesh.documents import document, documents, experiment
from tests.examples import examples

ROUTES_FILE = "/run/abmesh/routes.json"
OPTIONS = [
    RenderOptions(),
    RenderOptions(warmup=""),
    RenderOptions(routes_file=ROUTES_FILE),
    RenderOptions(routes_file=ROUTES_FILE, warmup=""),
]


def rendering(of: Document, options: RenderOptions) -> tuple[dict[str, Any], dict[str, str]]:
    """The bootstrap without the digests, and the digests; kept, since most edits begin with the same document."""
    return _rendering(_Once(of), options)


class _Once:
    """A document as a key: by its content, of which a secret salt is no part that is shown."""

    def __init__(self, of: Document) -> None:
        self.of = of

    def __hash__(self) -> int:
        return hash(self.of.model_dump_json())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Once) and self.of == other.of


@lru_cache(maxsize=64)
def _rendering(once: _Once, options: RenderOptions) -> tuple[dict[str, Any], dict[str, str]]:
    bootstrap = render_bootstrap(once.of, options)
    found = parts.read_metadata(bootstrap["node"].pop("metadata"))
    assert found is not None
    return bootstrap, found


def changed(before: Document, after: Document, options: RenderOptions) -> tuple[bool, tuple[str, ...]]:
    """Whether the bootstrap changes, and the parts that an Envoy rendered before would name."""
    first, found = rendering(before, options)
    return first != rendering(after, options)[0], parts.stale(found, parts.digests(after))


def chat(**changes: Any) -> Document:
    return document(experiment("chat", **changes), experiment("other"))


def two(**variant: Any) -> list[dict[str, Any]]:
    return [
        {"name": "v0", "cluster": "a", "weight": 100, "control": True},
        {"name": "v1", "cluster": "b", "weight": 0} | variant,
    ]


BASE: dict[str, Any] = {"events": ["click"], "segments": {"header": "x-s", "values": ["p"]}}
EDITS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "match": ({"match": {"path_prefix": "/v2/"}}, {"chat/match"}),
    "a header of the match": ({"match": {"headers": {"x-h": "1"}}}, {"chat/match", "headers"}),
    "cluster": ({"variants": two(cluster="a")}, {"chat/variants"}),
    "variant": (
        {"variants": [*two(), {"name": "v2", "cluster": "a", "weight": 0}]},
        {"chat/variants"},
    ),
    "order": ({"variants": two()[::-1]}, {"chat/order"}),
    "timeout": ({"variants": two(timeout="9s")}, {"chat/timeouts"}),
    "answers": ({"answers": {"output_tokens": "u.o"}}, {"chat/answers"}),
    "events": ({"events": ["click", "buy"]}, {"chat/events"}),
    "the first value": ({"events": [{"name": "click", "value": {"max": 1.5}}]}, {"statistics"}),
    "no segments": ({"segments": None}, {"headers", "statistics"}),
    "unit": ({"unit": [{"header": "x-other"}]}, {"headers"}),
    "native": ({"lane": "native"}, {"chat/native"}),
}
ONLY_THE_SERVERS: dict[str, dict[str, Any]] = {
    "weights": {"variants": [{"name": "v0", "cluster": "a", "weight": 40, "control": True}, two(weight=60)[1]]},
    "salt": {"salt": "s"},
    "segment values": {"segments": {"header": "x-s", "values": ["q"]}},
    "price": {"variants": two(price={"input": 1, "output": 2})},
    "slices": {"slices": 20},
    "override of a known header": {"overrides": [{"header": {"x-user-id": "me"}, "variant": "v1"}]},
    "rollout": {
        "rollout": {"candidate": "v1", "steps": [10, 100], "guardrails": [{"metric": "error_rate", "max": "5%"}]}
    },
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_names_its_part(edit: str) -> None:
    changes, expected = EDITS[edit]
    differs, names = changed(chat(**BASE), chat(**BASE | changes), RenderOptions())
    assert differs
    assert set(names) == expected


@pytest.mark.parametrize("edit", ONLY_THE_SERVERS)
def test_what_only_the_server_reads_makes_no_envoy_stale(edit: str) -> None:
    before, after = chat(**BASE), chat(**BASE | ONLY_THE_SERVERS[edit])
    assert before != after
    assert changed(before, after, RenderOptions()) == (False, ())


def test_weights_make_only_a_native_envoy_without_a_routes_file_stale() -> None:
    before, after = (chat(lane="native", **changes) for changes in ({}, ONLY_THE_SERVERS["weights"]))
    assert changed(before, after, RenderOptions()) == (True, ("chat/native",))
    assert changed(before, after, RenderOptions(routes_file=ROUTES_FILE)) == (False, ())


def test_a_secret_salt_is_in_no_digest() -> None:
    def native(value: str) -> Document:
        wanted = chat(lane="native", secret_salt={"env": "SALT"})
        item = wanted.experiments[0]
        assert item.secret_salt is not None
        held = item.model_copy(update={"secret_salt": item.secret_salt.holding(value)})
        return wanted.model_copy(update={"experiments": (held, *wanted.experiments[1:])})

    assert parts.digests(native("one-secret-of-16-bytes")) == parts.digests(native("two-secrets-of-16-bytes"))
    assert parts.digests(chat(lane="native", secret_salt={"env": "SALT"})) == parts.digests(native("x" * 32)), "unread"


def test_the_headers_of_a_pages_events_are_part_of_its_origins() -> None:
    base: dict[str, Any] = {"events": ["click"], "segments": None}
    before = document(experiment("chat", **base), event_origins=["https://a.example"])
    after = document(experiment("chat", **base, unit=[{"header": "x-u"}]), event_origins=["https://a.example"])
    assert changed(before, after, RenderOptions()) == (True, ("event_origins", "headers"))


def test_the_idle_limit_is_that_of_the_rendering() -> None:
    assert parts.IDLE == edge.STREAM_IDLE


def test_a_new_experiment_and_one_that_is_gone_are_named_once() -> None:
    one, both = document(experiment("chat")), chat()
    assert changed(one, both, RenderOptions()) == (True, ("experiments",))
    assert changed(both, one, RenderOptions()) == (True, ("experiments",))


def test_the_documents_own_parts() -> None:
    base = chat()
    assert changed(base, document(*_two(), default_cluster="c"), RenderOptions())[1] == ("clusters", "default_cluster")
    assert changed(base, document(*_two(), event_origins=["https://a.example"]), RenderOptions())[1] == (
        "event_origins",
    )


def _two() -> tuple[dict[str, Any], dict[str, Any]]:
    return experiment("chat"), experiment("other")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"abmesh": 3},
        {"abmesh": {"form": 0, "parts": {}}},
        {"abmesh": {"form": parts.FORM, "parts": {"a": 1}}},
    ],
)
def test_an_envoy_that_says_nothing_usable_is_unknown(metadata: Any) -> None:
    assert parts.read_metadata(metadata) is None


_EDITORS: list[Callable[[dict[str, Any], dict[str, Any]], None]] = [
    lambda item, other: item.update(match=other["match"]),
    lambda item, other: item.update(answers=other["answers"]),
    lambda item, other: item.update(events=other["events"]),
    lambda item, other: item.update(segments=other["segments"]),
    lambda item, other: item.update(unit=other["unit"]),
    lambda item, other: item.update(lane=other["lane"]),
    lambda item, other: item.update(salt="x"),
    lambda item, _: item["variants"][0].update(timeout="7m"),
    lambda item, _: item["variants"].reverse(),
]


@examples(6, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(documents().filter(lambda it: bool(it.experiments)), st.data())
def test_the_digests_change_exactly_when_the_bootstrap_does(before: Document, data: st.DataObject) -> None:
    told = before.model_dump(mode="json", exclude_defaults=True)
    other = data.draw(documents()).model_dump(mode="json", exclude_defaults=True)
    edit = data.draw(st.sampled_from([None, "event_origins", "clusters", *_EDITORS]))
    if edit is None:
        told["experiments"] = told["experiments"][1:]
    elif edit == "event_origins":
        told["event_origins"] = other.get("event_origins", [])
    elif edit == "clusters":
        for cluster in told["clusters"].values():
            cluster["port"] = 4321
    elif other.get("experiments"):
        full: dict[str, Any] = {"match": {}, "answers": {}, "events": [], "segments": None, "lane": "ext_proc"}
        edit(told["experiments"][0], full | other["experiments"][0])
    after = Document.model_validate(told)
    options = data.draw(st.sampled_from(OPTIONS))
    differs, names = changed(before, after, options)
    assert differs == bool(names), (names, options)

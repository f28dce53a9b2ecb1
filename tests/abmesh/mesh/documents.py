"""Documents for the tests of rendering: a default, and any that hypothesis can think of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from ruamel.yaml import YAML

from abmesh.experiment.model import Document
from abmesh.mesh.routes import RoutesRenderer
from tests.paths import ROOT


def default_document() -> Document:
    """The document at the root of the repository."""
    return Document.model_validate(YAML(typ="safe").load(ROOT / "experiments.yaml"))


def experiment(name: str = "chat", clusters: tuple[str, ...] = ("a", "b"), **changes: Any) -> dict[str, Any]:
    """An experiment whose variants are v0 (control), v1 ..., one per cluster."""
    variants: list[dict[str, Any]] = [
        {"name": f"v{index}", "cluster": cluster, "weight": 0} for index, cluster in enumerate(clusters)
    ]
    variants[0] |= {"weight": 100, "control": True}
    return {"name": name, "unit": [{"header": "x-user-id"}], "variants": variants, **changes}


def document(*experiments: dict[str, Any], **changes: Any) -> Document:
    """A document with clusters a, b and c."""
    clusters = {name: {"host": "127.0.0.1", "port": 8000 + index} for index, name in enumerate("abc")}
    chosen = list(experiments) or [experiment()]
    return Document.model_validate({"version": 1, "clusters": clusters, "experiments": chosen, **changes})


def render_routes(of: Document, version: str = "") -> dict[str, Any]:
    """The content of a routes file for a document."""
    return RoutesRenderer().render(of, version)


def values_of(tree: Any, key: str) -> Iterator[Any]:
    """Every value under a key, anywhere in plain dictionaries and lists."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from values_of(value, key)
    elif isinstance(tree, list):
        for item in tree:
            yield from values_of(item, key)


_NOT_IN_PATHS = str.maketrans("", "", "?#")
_LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
_CLUSTER_NAME = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
_HEADER = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True).filter(lambda name: not name.startswith("x-"))
_VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
_HOST = st.sampled_from(["127.0.0.1", "::1", "10.1.2.3", "model.example.com", "no", "localhost"])
_TIMEOUT = st.none() | st.sampled_from(["1ms", "250ms", "30s", "1h30m", "3650d"])
_KEY = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
_PATH = st.lists(_KEY, min_size=1, max_size=4).map(".".join)
_JSON_TEXT = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"\\'), min_size=1, max_size=9
)
_SIGNALS = st.lists(
    st.fixed_dictionaries({"field": _KEY}, optional={"value": _JSON_TEXT})
    | st.fixed_dictionaries(
        {"header": _HEADER}, optional={"value": _JSON_TEXT.filter(lambda text: text == text.strip())}
    ),
    max_size=3,
)
_CACHED = st.lists(st.fixed_dictionaries({"header": _HEADER}, optional={"value": _VALUE}), max_size=3)
_ANSWERS = st.fixed_dictionaries(
    {}, optional={"input_tokens": _PATH, "output_tokens": _PATH, "refusals": _SIGNALS, "cached": _CACHED}
).filter(lambda answers: "input_tokens" not in answers or answers["input_tokens"] != answers.get("output_tokens"))
_EVENT_NAME = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True).filter(
    lambda name: name not in ("continuation", "error", "refusal", "cache")
)
_EVENTS = st.lists(
    _EVENT_NAME | st.fixed_dictionaries({"name": _EVENT_NAME, "value": st.just({"max": 99.5})}),
    max_size=4,
    unique_by=lambda event: event if isinstance(event, str) else str(event["name"]),
)
_SEGMENTS = st.none() | st.fixed_dictionaries({"header": _HEADER, "values": st.just(["power", "casual"])})
_ORIGINS = st.lists(st.sampled_from(["https://shop.example", "http://localhost:8080"]), max_size=2, unique=True)
_UNITS = [{"header": "x-user-id"}, {"cookie": "c+*.|^"}, {"query": "q.~"}]
_TLS = st.sampled_from([False, True, {"sni": "models.example.com"}, {"sni": "10.0.0.1", "ca_file": "/etc/ca.pem"}])


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Any document that can be rendered."""
    names = draw(st.lists(_CLUSTER_NAME, min_size=1, max_size=4, unique=True))
    clusters = {
        name: {"host": draw(_HOST), "port": draw(st.integers(1, 65535)), "tls": draw(_TLS) or None} for name in names
    }

    def one(name: str) -> dict[str, Any]:
        labels = draw(st.lists(_LABEL, min_size=2, max_size=4, unique=True))
        variants: list[dict[str, Any]] = [
            {"name": label, "cluster": draw(st.sampled_from(names)), "weight": 0, "timeout": draw(_TIMEOUT)}
            for label in labels
        ]
        draw(st.sampled_from(variants)).update(weight=100, control=True)
        match: dict[str, Any] = {
            "path_prefix": "/" + draw(_VALUE).translate(_NOT_IN_PATHS),
            "headers": draw(st.dictionaries(_HEADER, _VALUE, max_size=2)),
        }
        if draw(st.booleans()):
            match["host"] = draw(st.sampled_from(["api.example.com", "A_b-c.9", "no"]))
        unit = draw(st.lists(st.sampled_from(_UNITS), max_size=2, unique_by=str))
        events: list[Any] = [*draw(_EVENTS), *draw(st.sampled_from([[], ["continuation"]]))]
        return {
            "name": name,
            "match": match,
            "lane": draw(st.sampled_from(["ext_proc", "native"])),
            "unit": [*unit, {"cookie": "sid"}],
            "overrides": [{"header": {"x-group": draw(_VALUE)}, "variant": labels[-1]}] * draw(st.integers(0, 1)),
            "issue_cookie": {"name": "sid", "max_age": "1h"},
            "variants": variants,
            "answers": draw(_ANSWERS),
            "events": events,
            "segments": draw(_SEGMENTS),
        }

    experiments = [one(name) for name in draw(st.lists(_LABEL, min_size=0, max_size=3, unique=True))]
    default = draw(st.none() | st.sampled_from(names))
    return Document.model_validate(
        {
            "version": 1,
            "clusters": clusters,
            "default_cluster": default,
            "event_origins": draw(_ORIGINS),
            "experiments": experiments,
        }
    )

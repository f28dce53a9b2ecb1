"""Documents with hostile text in every field that takes text, and many of them as one document.

Used by ``test_whatever_validates_starts.py``. Each case has names of its own, so that all that are accepted can be
rendered into one Envoy configuration: it takes Envoy half a second to look at one document and not much longer to look
at two hundred.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from abmesh.experiment.codec import parse
from abmesh.experiment.errors import DocumentError
from abmesh.experiment.model import Document
from abmesh.local.envoy_check import with_placeholders

PAYLOADS: Final = (
    # Control characters, and what ends a line somewhere.
    "a\nb", "a\r\nx-forged: 1", "a\0b", "\0", "a\tb", "\x1b[31mred\x1b[0m", "\x7f", "\u0085", "\u2028", "\ufeffa",
    # Empty, blank, long.
    "", " ", " a", "a ", "a" * 63, "a" * 64, "a" * 90, "a" * 128, "k" * 40, "a." * 60 + "example", "a" * 254, "a" * 256,
    "a" * 1025, "a" * 70_000,
    # Outside of ASCII: two bytes each, right to left, combining, beyond the first plane, a letter that folds to "k".
    "é" * 130, "\u202eevil\u202c", "e\u0301", "\U0001f600", "\u212a", "\u0130",
    # Values that YAML 1.1, which Envoy reads, takes for something else.
    "no", "on", "y", "null", "~", "1:30", "0x10", "1e3", ".inf", "2026-11-30", "!!str a", "&a", "*a", "- a",
    "a: b", "a #b",
    # Envoy's format strings, its substitutions, and its paths.
    "%REQ(x)%", "%", "%%", "%DYNAMIC_METADATA(a:b)%", r"\1", r"\9", r"\0", "/../../etc/passwd",
    "/a?b#c", "/a%00b", "//",
    # Regular expressions, Lua and its long brackets, JSON, quotes, separators.
    "(?i)a+", "[", "a{1001}", ".*", "(", "]==]", "--[[", '"', "'", "\\", "${a}", "{{a}}", "a|b", "a,b",
    "a;b", "a=b", "a:b",
    # Names that are taken, or look like ours.
    "x-model-version", "x-ab-slice", ":authority", "host", "abmesh", "abmesh-ext-proc", "control", "other",
    "continuation", "unmatched", "a/unassigned", "999.999.999.999", "::1", "[::1]", "fe80::1%eth0", "-",
    "_", ".", "..", "a..b",
)  # fmt: skip
"""Text that some program on the way once took for more than text."""

_Case = dict[str, Any]


_PARTS: Final[_Case] = {
    "unit": [{"header": "x-user-id"}, {"cookie": "who"}, {"query": "u"}],
    "overrides": [{"header": {"x-group": "beta"}, "variant": "v1"}],
    "segments": {"header": "x-segment", "values": ["power"]},
    "answers": {
        "refusals": [{"field": "finish_reason", "value": "filter"}, {"header": "x-refused"}],
        "cached": [{"header": "x-cache", "value": "hit"}],
    },
    "events": ["click"],
    "rollout": {
        "candidate": "v1",
        "steps": [20, 100],
        "guardrails": [{"metric": "error_rate", "max": "5%"}],
        "goal": {"metric": "latency_p95", "increase": False},
        "warmup": {"path": "/v1/x", "headers": {"x-a": "b"}},
    },
}
"""Parts of an experiment; a case has only those that its field needs, or Envoy would read for minutes."""


def _whole(number: int, lane: str, field: str) -> _Case:
    item: _Case = {
        "name": f"e{number}",
        "lane": lane,
        "match": {"path_prefix": "/v1/"},
        "unit": [{"header": "x-user-id"}],
        "variants": [
            {"name": "v0", "cluster": f"c{number}a", "weight": 100, "control": True},
            {"name": "v1", "cluster": f"c{number}b", "weight": 0},
        ],
        "slices": 10,
    }
    part = field.partition(".")[0]
    if part in _PARTS:
        item[part] = copy.deepcopy(_PARTS[part])
    if part == "issue_cookie":
        item["unit"].append({"cookie": "sid"})
        item["issue_cookie"] = {"name": "sid", "max_age": "1h"}
    clusters: _Case = {f"c{number}{letter}": {"host": "127.0.0.1", "port": 8000} for letter in "ab"}
    if part == "clusters":
        clusters[f"c{number}b"]["tls"] = {"sni": "models.example"}
    return {"version": 1, "clusters": clusters, "experiments": [item]}


Change = Callable[[_Case, str, Path], str]
"""Puts text into a case; returns the start of the path of the field that has it."""


def _at(*path: str | int) -> Change:
    """Puts the text under a path below the experiment."""

    def change(case: _Case, text: str, _folder: Path) -> str:
        place: Any = case["experiments"][0]
        for step in path[:-1]:
            place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
        place[path[-1]] = text
        return f"experiments[0].{path[0]}"

    return change


def _key(*path: str | int) -> Change:
    """Puts the text under a path below the experiment as the only key of a mapping."""

    def change(case: _Case, text: str, _folder: Path) -> str:
        place: Any = case["experiments"][0]
        for step in path[:-1]:
            place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
        place[path[-1]] = {text: "a"}
        return f"experiments[0].{path[0]}"

    return change


def _cluster_name(case: _Case, text: str, _folder: Path) -> str:
    [first, _] = case["clusters"]
    case["clusters"][text] = case["clusters"].pop(first)
    case["experiments"][0]["variants"][0]["cluster"] = text
    return "clusters"


def _of_cluster(*path: str) -> Change:
    def change(case: _Case, text: str, folder: Path) -> str:
        place = list(case["clusters"].values())[-1]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = _existing(folder, text) if path[-1] == "ca_file" else text
        return "clusters"

    return change


def _existing(folder: Path, text: str) -> str:
    """A path that ends in the text, of a file with certificates; the text as a relative path if no file has that name.

    Whether a file exists where Envoy runs, ``validate`` alone cannot know.
    """
    path = f"{folder}/{text}"
    try:
        if not Path(path).resolve().is_relative_to(folder.resolve()):
            return text.lstrip("/")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if not Path(path).exists():
            Path(path).write_bytes((folder / "ca.pem").read_bytes())
    except OSError:
        return text.lstrip("/")  # such as a name that is too long for a file
    except ValueError:
        return path  # a NUL, which validate must refuse
    return path if Path(path).is_file() else text.lstrip("/")


def _default_cluster(case: _Case, text: str, folder: Path) -> str:
    _cluster_name(case, text, folder)
    case["default_cluster"] = text
    return ""


def _origin(case: _Case, text: str, _folder: Path) -> str:
    case["event_origins"] = [text]
    return "event_origins"


def _cookie(case: _Case, text: str, _folder: Path) -> str:
    item = case["experiments"][0]
    item["unit"] = [{"cookie": text}]
    item["issue_cookie"] = {"name": text, "max_age": "1h"}
    return "experiments[0]"


def _variant(case: _Case, text: str, _folder: Path) -> str:
    case["experiments"][0]["variants"][1]["name"] = text
    return "experiments[0].variants"


FIELDS: Final[dict[str, Change]] = {
    "clusters.*": _cluster_name,
    "clusters.*.host": _of_cluster("host"),
    "clusters.*.tls.sni": _of_cluster("tls", "sni"),
    "clusters.*.tls.ca_file": _of_cluster("tls", "ca_file"),
    "default_cluster": _default_cluster,
    "event_origins": _origin,
    "name": _at("name"),
    "salt": _at("salt"),
    "secret_salt.file": _at("secret_salt", "file"),
    "secret_salt.env": _at("secret_salt", "env"),
    "lane": _at("lane"),
    "match.path_prefix": _at("match", "path_prefix"),
    "match.host": _at("match", "host"),
    "match.headers.*": _key("match", "headers"),
    "match.headers.* value": _at("match", "headers", "x-tier"),
    "unit.header": _at("unit", 0, "header"),
    "unit.cookie": _at("unit", 1, "cookie"),
    "unit.query": _at("unit", 2, "query"),
    "issue_cookie.name": _cookie,
    "issue_cookie.path": _at("issue_cookie", "path"),
    "issue_cookie.domain": _at("issue_cookie", "domain"),
    "issue_cookie.max_age": _at("issue_cookie", "max_age"),
    "issue_cookie.same_site": _at("issue_cookie", "same_site"),
    "variants.name": _variant,
    "variants.timeout": _at("variants", 1, "timeout"),
    "overrides.header.*": _key("overrides", 0, "header"),
    "overrides.header.* value": _at("overrides", 0, "header", "x-group"),
    "overrides.variant": _at("overrides", 0, "variant"),
    "segments.header": _at("segments", "header"),
    "segments.values": _at("segments", "values", 0),
    "answers.input_tokens": _at("answers", "input_tokens"),
    "answers.output_tokens": _at("answers", "output_tokens"),
    "answers.refusals.field": _at("answers", "refusals", 0, "field"),
    "answers.refusals.value": _at("answers", "refusals", 0, "value"),
    "answers.refusals.header": _at("answers", "refusals", 1, "header"),
    "answers.cached.header": _at("answers", "cached", 0, "header"),
    "answers.cached.value": _at("answers", "cached", 0, "value"),
    "events": _at("events", 0),
    "rollout.candidate": _at("rollout", "candidate"),
    "rollout.guardrails.metric": _at("rollout", "guardrails", 0, "metric"),
    "rollout.goal.metric": _at("rollout", "goal", "metric"),
    "rollout.warmup.path": _at("rollout", "warmup", "path"),
    "rollout.warmup.headers.*": _at("rollout", "warmup", "headers", "x-a"),
}
"""Every field that takes text, and how text gets there."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A case that ``abmesh validate`` accepts.

    Attributes:
        label: field, payload and lane, for messages.
        text: the document.
        case: the same as plain data.
    """

    label: str
    text: str
    case: _Case


def judged(cases: Iterable[tuple[int, str, str, str]], folder: Path) -> Iterator[Accepted | str]:
    """What ``validate`` says about each case: accepted, or the label of a case that it refuses and how.

    Args:
        cases: number, field, payload and lane of each.
        folder: where files of certificates are made; it holds ``ca.pem``.

    Raises:
        AssertionError: a refusal does not name the field.
    """
    for number, field, payload, lane in cases:
        case = _whole(number, lane, field)
        path = FIELDS[field](case, payload, folder)
        label = f"{field} = {payload!r:.60} (lane {lane})"
        text = json.dumps(case)
        try:
            parse(text, "the case")
        except DocumentError as refusal:
            paths = [problem.path for problem in refusal.problems]
            # A key of more than 1,024 characters is not YAML, so that only its line can be named.
            named = any(found.startswith(path) for found in paths) or len(payload) > 1024
            assert named, f"{label}: {paths}"
            yield label
        else:
            yield Accepted(label, text, case)


def together(cases: Iterable[Accepted], most: int = 200) -> Iterator[list[Accepted]]:
    """Groups of cases that can stand in one document: no two have the same experiment, cluster or default."""
    groups: list[tuple[set[str], list[Accepted]]] = []
    for accepted in cases:
        names = _taken(accepted.case)
        group = next((found for found in groups if not found[0] & names and len(found[1]) < most), None)
        if group is None:
            group = (set(), [])
            groups.append(group)
        group[0].update(names)
        group[1].append(accepted)
    yield from (members for _, members in groups)


def _taken(case: _Case) -> set[str]:
    names = {f"experiment {case['experiments'][0]['name']}", *(f"cluster {name}" for name in case["clusters"])}
    names.update("default" for _ in [1] if "default_cluster" in case)
    names.update(f"origin {origin}" for origin in case.get("event_origins", ()))
    return names


def merged(group: Iterable[Accepted]) -> Document:
    """One document that holds all cases of a group."""
    whole: _Case = {"version": 1, "clusters": {}, "experiments": [], "event_origins": []}
    for accepted in group:
        whole["clusters"] |= accepted.case["clusters"]
        whole["experiments"] += accepted.case["experiments"]
        whole["event_origins"] += accepted.case.get("event_origins", [])
        if "default_cluster" in accepted.case:
            whole["default_cluster"] = accepted.case["default_cluster"]
    return with_placeholders(Document.model_validate(whole))

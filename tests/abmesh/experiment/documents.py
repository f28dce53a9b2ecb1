"""Documents for the tests of this package: a small fixed one, and hypothesis strategies for many styles of YAML."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import strategies as st

SMALL = """\
version: 1
experiments:
  - name: chat
    unit: [{header: x-user-id}]
    variants:
      - {name: model-a, cluster: a, weight: 90, control: true}
      - {name: model-b, cluster: b, weight: 10}
"""

THREE = """\
version: 1
experiments:
  - name: chat
    unit: [{header: x-user-id}]
    variants:
      - {name: model-a, cluster: a, weight: 50, control: true}
      - {name: model-b, cluster: b, weight: 30}
      - {name: model-c, cluster: c, weight: 20}   # the newest
    events: [click]
"""


def weights_of(count: int) -> st.SearchStrategy[list[int]]:
    """Basis points that sum to 10,000, zeros included."""
    cuts = st.lists(st.integers(0, 10_000), min_size=count - 1, max_size=count - 1)
    return cuts.map(_gaps)


def _gaps(cuts: list[int]) -> list[int]:
    borders = [0, *sorted(cuts), 10_000]
    return [stop - start for start, stop in itertools.pairwise(borders)]


NAMES = ("model-a", "model-b", "null", "123", "yes", "0x1f", "true", "e")


@dataclass(frozen=True)
class Written:
    """A document in some style."""

    text: str
    weights: dict[str, int]


@st.composite
def written(draw: st.DrawFn) -> Written:
    """A valid document with one to three experiments, of which ``chat`` has the weights that are returned."""
    count = draw(st.integers(2, 5))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=count, max_size=count, unique=True))
    weights = dict(zip(names, draw(weights_of(count)), strict=True))
    newline = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    before = draw(st.lists(st.sampled_from(["first", "second"]), max_size=1))
    after = draw(st.lists(st.just("last"), max_size=1))
    lines: list[str] = []
    items = [_experiment(draw, name, {"a": 6000, "b": 4000}) for name in before]
    items.append(_experiment(draw, "chat", weights))
    items += [_experiment(draw, name, {"a": 5000, "b": 2500, "c": 2500}) for name in after]
    style = draw(st.sampled_from(["block", "indented", "flow", "json"]))
    if style == "json":
        text = '{"version": 1, "experiments": [' + f",{newline}".join(_flow(item, '"') for item in items) + "]}"
        return Written(text + draw(st.sampled_from(["", newline])), weights)
    lines += draw(st.sampled_from([[], ["# ünïcode"], ["---", ""], ["%YAML 1.2", "---"]]))
    lines += ["version: 1", ""]
    if style == "flow":
        lines += ["experiments:", *(f"  - {_flow(item, '')}{_comment(draw)}" for item in items)]
    else:
        indent = "" if style == "block" else "   "
        lines.append("experiments:" + _comment(draw))
        for item in items:
            block = _block(draw, item)
            lines += [f"{indent}- {block[0]}", *(f"{indent}  {line}" if line else "" for line in block[1:])]
    lines += draw(st.sampled_from([[], ["# the end"], ["..."], ["", ""]]))
    text = newline.join(lines) + draw(st.sampled_from(["", newline]))
    return Written(("\ufeff" if draw(st.booleans()) else "") + text, weights)


def _comment(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(["", "", "  # weight: 5 ü"]))


def _quoted(draw: st.DrawFn, text: str) -> str:
    quotes = ["'", '"'] if text in NAMES[2:] else ["", "'", '"']
    quote = draw(st.sampled_from(quotes))
    return f"{quote}{text}{quote}"


def _experiment(draw: st.DrawFn, name: str, weights: dict[str, int]) -> dict[str, object]:
    variants = []
    for index, (variant, weight) in enumerate(weights.items()):
        percent = f"{weight // 100}.{weight % 100:02}" if weight % 100 or draw(st.booleans()) else str(weight // 100)
        fields = {"name": _quoted(draw, variant), "cluster": "x", "weight": _quoted(draw, percent)}
        if index == 0:
            fields["control"] = "true"
        order = draw(st.permutations(list(fields)))
        variants.append({key: fields[key] for key in order})
    body: dict[str, object] = {"name": name, "unit": "[{header: x-user-id}]", "variants": variants}
    if draw(st.booleans()):
        body["slices"] = "20"
    if draw(st.booleans()):
        body["ranges"] = _ranges(draw, weights)
    return {key: body[key] for key in draw(st.permutations(list(body)))}


def _ranges(draw: st.DrawFn, weights: dict[str, int]) -> object:
    style = draw(st.sampled_from(["null", "", "some"]))
    if style != "some":
        return style
    middle = draw(st.integers(1, 9999))
    first, second, *rest = weights
    return {first: f"[[{middle}, 10000]]", second: f"[[0, {middle}]]", **dict.fromkeys(rest, "[]")}


def _flow(value: object, quote: str) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item, quote) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key, quote)}: {_flow(item, quote)}" for key, item in value.items()) + "}"
    text = str(value)
    if quote and text == "[{header: x-user-id}]":
        return '[{"header": "x-user-id"}]'
    return text


def _key(key: str, quote: str) -> str:
    return f'"{key}"' if quote or key in NAMES[2:] else key


def _block(draw: st.DrawFn, item: dict[str, object]) -> list[str]:
    lines: list[str] = []
    for key, value in item.items():
        if isinstance(value, str) or draw(st.booleans()):
            lines.append(f"{key}: {_flow(value, '')}{_comment(draw)}")
        elif isinstance(value, dict):
            lines += [f"{key}:", *(f"    {_key(name, '')}: {part}" for name, part in value.items())]
        else:
            assert isinstance(value, list)
            indent = draw(st.sampled_from(["", "  "]))
            lines.append(f"{key}:{_comment(draw)}")
            for variant in value:
                fields = [f"{name}: {part}{_comment(draw)}" for name, part in variant.items()]
                lines += [f"{indent}- {fields[0]}", *(f"{indent}  {field}" for field in fields[1:])]
        if draw(st.integers(0, 5)) == 0:
            lines += ["", "# between"]
    return lines

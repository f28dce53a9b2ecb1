"""Envoy's Lua filter, which reads models' answers: tokens, refusals, whether they came from a cache. Pure.

Called by :mod:`abmesh.mesh.listener` for the filter, by :mod:`abmesh.mesh.places` for a variant's place, and by
:mod:`abmesh.mesh.native`. There is one script for each distinct ``answers:`` in the document. A script is
``answers.lua`` with Lua literals above it that say what to look for. It sets dynamic metadata in the namespace
``abmesh``, which the loggers of :mod:`abmesh.mesh.statistics` read.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Final

import xxhash
from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua, LuaPerRoute
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.google.protobuf import Any

from abmesh.experiment import names
from abmesh.experiment.answers import Answers, HeaderSignal, Signal
from abmesh.experiment.model import Experiment
from abmesh.mesh import filters

_READER: Final = files("abmesh.mesh").joinpath("answers.lua").read_text(encoding="utf-8")
_PLAIN: Final = frozenset(string.ascii_letters + string.digits + " !#$%&'()*+,-./:;<=>?@[]^_`{|}~")
_NUMBERS: Final = ("input_tokens", "output_tokens")


def answers_filter(kinds: Iterable[Answers]) -> HttpFilter:
    """The filter: it has every script, and runs one only where the route or the place names it.

    Args:
        kinds: the ``answers:`` of all experiments.
    """
    scripts = {script_name(answers): DataSource(inline_string=script(answers)) for answers in dict.fromkeys(kinds)}
    return HttpFilter(name=filters.ANSWERS, typed_config=Any.pack(Lua(source_codes=scripts)), disabled=True)


def reads_answers(experiment: Experiment) -> dict[str, Any]:
    """Settings of the filter for a variant's requests: the experiment's script."""
    return {filters.ANSWERS: Any.pack(LuaPerRoute(name=script_name(experiment.answers)))}


def reads_no_answers() -> dict[str, Any]:
    """Settings of the filter for a route that has places.

    Envoy chooses a request's filters before our server has chosen its place, so the route puts the filter in, silent,
    and :func:`reads_answers` at the place gives it a script.
    """
    return {filters.ANSWERS: Any.pack(LuaPerRoute(disabled=True))}


def script_name(answers: Answers) -> str:
    """The name of a script, which is a digest of it.

    Routes may be newer than the filter. The digest lets them find its scripts as long as an experiment's ``answers:``
    stay the same, whichever experiments have been added or removed.
    """
    return f"answers-{xxhash.xxh64_hexdigest(script(answers).encode())}"


def script(answers: Answers) -> str:
    """The Lua script for answers of this kind."""
    refused = [signal for signal in answers.refusals if signal.header is not None]
    return (
        f"local NAMESPACE = {lua_text(names.METADATA_NAMESPACE)}\n"
        f"local CACHED = {_headers(answers.cached)}\n"
        f"local REFUSED = {_headers(refused)}\n"
        f"local KEYS = {_keys(answers)}\n\n"
        f"{_READER}"
    )


def lua_text(text: str) -> str:
    """A Lua string literal; whatever a document contains, it stays a string."""
    escaped = "".join(chr(byte) if chr(byte) in _PLAIN else f"\\{byte:03d}" for byte in text.encode())
    return f'"{escaped}"'


def _headers(signals: Iterable[Signal | HeaderSignal]) -> str:
    made = []
    for signal in signals:
        value = "" if signal.value is None else f", value = {lua_text(signal.value.lower())}"
        made.append(f"{{ name = {lua_text(signal.header or '')}{value} }}")
    return _list(made)


def _keys(answers: Answers) -> str:
    """The keys to look for, each once, with what may follow them."""
    places: dict[str, dict[tuple[str, ...], int]] = {}
    for number, field in enumerate(_NUMBERS, 1):
        first, *rest = getattr(answers, field).split(".")
        places.setdefault(first, {}).setdefault(tuple(rest), number)
    signals = [signal for signal in answers.refusals if signal.field is not None]
    keys = dict.fromkeys([*places, *(signal.field for signal in signals if signal.field is not None)])
    made = []
    for key in keys:
        wanted = [signal.value for signal in signals if signal.field == key]
        texts = _list([lua_text(f'{value}"') for value in wanted if value is not None])
        parts = [f"quoted = {lua_text(f'{chr(34)}{key}{chr(34)}')}", f"texts = {texts}"]
        if None in wanted:
            parts.append("any = true")
        if key in places:
            parts.append(f"place = {_place(places[key])}")
        made.append(f"  {{ {', '.join(parts)} }},\n")
    return f"{{\n{''.join(made)}}}"


def _place(paths: Mapping[tuple[str, ...], int]) -> str:
    """A tree of the keys that lead to numbers: ``{ inside = { ["prompt_tokens"] = { number = 1 } } }``."""
    parts = [f"number = {number}" for path, number in paths.items() if not path]
    below: dict[str, dict[tuple[str, ...], int]] = {}
    for path, number in paths.items():
        if path:
            below.setdefault(path[0], {})[path[1:]] = number
    if below:
        inside = ", ".join(f"[{lua_text(key)}] = {_place(rest)}" for key, rest in below.items())
        parts.append(f"inside = {{ {inside} }}")
    return f"{{ {', '.join(parts)} }}"


def _list(items: Iterable[str]) -> str:
    joined = ", ".join(items)
    return f"{{ {joined} }}" if joined else "{}"

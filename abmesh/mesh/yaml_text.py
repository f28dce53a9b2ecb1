"""Envoy's configuration as readable YAML that Envoy parses as intended. Pure; called by ``abmesh render envoy``.

Envoy parses YAML 1.1, where an unquoted ``no`` or ``on`` is a boolean and ``1:30`` a number. Only strings that no
parser can mistake for anything else are left unquoted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, ScalarNode
from ruamel.yaml.representer import SafeRepresenter

_TEXT_TAG = "tag:yaml.org,2002:str"
_MAP_TAG = "tag:yaml.org,2002:map"
_BARE = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*|[0-9]+(?:\.[0-9]+)?m?s")
_LINES = re.compile(r"[!-~][ -~]*\n(?:(?:[ -~]*[!-~])?\n)+")
_NOT_TEXT = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "infinity"})


class _Representer(SafeRepresenter):
    """Keeps the order, quotes what might not be read as a string, and writes repeated values out, without aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's signature
        return True

    def represent_in_order(self, data: dict[str, Any]) -> MappingNode:
        return self.represent_mapping(_MAP_TAG, list(data.items()))  # the base class sorts what has items()

    def represent_text(self, data: str) -> ScalarNode:
        if _LINES.fullmatch(data):
            return self.represent_scalar(_TEXT_TAG, data, style="|")  # a script can be read line by line
        bare = _BARE.fullmatch(data) and data.lower() not in _NOT_TEXT
        return self.represent_scalar(_TEXT_TAG, data, style=None if bare else '"')


_Representer.add_representer(dict, _Representer.represent_in_order)
_Representer.add_representer(str, _Representer.represent_text)


def to_yaml(bootstrap: Mapping[str, Any]) -> str:
    """Block YAML in the mapping's own order, ending in a newline.

    Args:
        bootstrap: plain dictionaries, lists, strings, numbers and booleans.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 4096  # never fold: a folded regular expression is hard to read
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(dict(bootstrap), stream)
    return stream.getvalue()

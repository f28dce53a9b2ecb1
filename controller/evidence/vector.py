"""A Prometheus server's answer to an instant query. Pure.

    {"status":"success","data":{"resultType":"vector","result":[
      {"metric":{"__name__":"up","instance":"10.0.0.7:9901","job":"envoy"},"value":[1764000000.123,"1"]},
      ...]},"warnings":["..."]}

An answer may have a hundred million characters, so it is read one series after the other: all of them as Python objects
would take ten times the memory. And a fleet's series have the same labels but for ``instance``, so these are kept as
the text that they come as, to be understood once: a third of the time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from abmesh.experiment.errors import SourceError

INSTANCE: Final = "instance"
"""Label under which Prometheus knows a target."""

Others = tuple[str, str]
"""All other labels of a series, as the JSON before ``instance`` and after it."""

_RESULT = re.compile(r'"result"\s*:\s*\[\s*')
_BETWEEN = re.compile(r"\s*([,\]])\s*")
_SERIES = re.compile(
    # As Prometheus writes it, and without anything that has to be unescaped. A quote before the label's name can only
    # be where that name begins.
    rf'\{{"metric":\{{([^{{}}\\]*?)"{INSTANCE}":"([^"\\]*)"([^{{}}\\]*)\}},"value":\[([0-9.]+),"([^"\\]*)"\]\}}(?:,(?=\{{))?'
)
_DECODER = json.JSONDecoder()


class RefusedQueryError(SourceError):
    """The server says that it cannot answer."""


class Answer:
    """A server's answer to an instant query. Its warnings are known once all of its series have been read.

    Attributes:
        warnings: why the result may be incomplete.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, Others, float, str]]:
        """Instance, other labels, moment in Unix time, and value of every series, one after the other.

        Raises:
            SourceError: it is no such answer, or reports an error.
        """
        text, begin = self._text, _RESULT.search(self._text)
        try:
            if begin is None:
                self._look_at(json.loads(text))
                raise SourceError("its answer holds no result; is this the address of a Prometheus server?")
            place = begin.end()
            end = _BETWEEN.match(text, place)
            while end is None or end[1] != "]":
                quick = _SERIES.match(text, place)
                if quick is not None:
                    before, instance, after, at, value = quick.groups()
                    yield instance, (before, after), float(at), value
                    place = quick.end()
                    if text[place - 1] == ",":
                        continue
                else:
                    item, place = _DECODER.raw_decode(text, place)
                    at, value = item["value"]
                    labels = item["metric"]
                    "".join((value, *labels.values()))  # a TypeError if one of them is no text
                    instance = labels.pop(INSTANCE, "")
                    yield instance, (json.dumps(labels, sort_keys=True)[1:-1], ""), float(at), value
                end = _BETWEEN.match(text, place)
                if end is None:
                    raise SourceError("its answer is not JSON: no comma between two series")
                place = end.end()
            # What is around the series is small.
            self._look_at(json.loads(text[: begin.end()] + text[end.start() :]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            # JSONDecodeError is a ValueError whose message is fit to be shown; the others say nothing to a person.
            why = error.msg if isinstance(error, json.JSONDecodeError) else "it has another form"
            raise SourceError(f"its answer makes no sense: {why}; is this a Prometheus server?") from None

    def _look_at(self, envelope: Any) -> None:
        if envelope["status"] != "success":
            raise RefusedQueryError(f"it refuses the query: {short(envelope.get('error', 'it does not say why'))}")
        if envelope["data"]["resultType"] != "vector":
            raise SourceError("its answer is not of an instant query")
        self.warnings = tuple(short(warning) for warning in envelope.get("warnings", ()))


def labels_of(others: Others) -> dict[str, str]:
    """The labels of a series, without ``instance``.

    Raises:
        SourceError: they are none.
    """
    before, after = others
    try:
        found = json.loads(f"{{{before.rstrip(',')}{after if before else after.lstrip(',')}}}")
        "".join(found.values())
    except (ValueError, TypeError, RecursionError):
        raise SourceError(f"the labels of a series make no sense: {short(before + after)}") from None
    return dict(found)


def short(text: object) -> str:
    """A foreign text as it may stand in a message."""
    shown = " ".join(str(text).split())
    return shown if len(shown) <= 200 else shown[:197] + "..."

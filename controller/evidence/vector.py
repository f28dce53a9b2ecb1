"""A Prometheus server's answer to an instant query: an instant vector. Pure.

Used by :mod:`controller.evidence.scraped` and :mod:`controller.sources.prometheus`.

    {"status":"success","data":{"resultType":"vector","result":[
      {"metric":{"__name__":"up","instance":"10.0.0.7:9901","job":"envoy"},"value":[1764000000.123,"1"]},
      ...]},"warnings":["..."]}

An answer may have a hundred million characters, so it is read one series at a time: parsed as a whole, it would take
ten times the memory. Across a fleet, most series differ only in ``instance``, so the other labels stay unparsed text
that readers parse once and look up afterwards, which cuts the time to a third.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from abmesh.experiment.errors import SourceError
from abmesh.text import shorten

INSTANCE: Final = "instance"
"""The label by which Prometheus identifies a target."""

OtherLabels = tuple[str, str]
"""A series' labels apart from ``instance``, as the JSON text before it and after it."""

_RESULT = re.compile(r'"result"\s*:\s*\[\s*')
_BETWEEN = re.compile(r"\s*([,\]])\s*")
_SERIES = re.compile(
    # Exactly as Prometheus writes it, with nothing that needs unescaping. With no escapes, a quote before the label's
    # name can only begin that name.
    rf'\{{"metric":\{{([^{{}}\\]*?)"{INSTANCE}":"([^"\\]*)"([^{{}}\\]*)\}},"value":\[([0-9.]+),"([^"\\]*)"\]\}}(?:,(?=\{{))?'
)
_DECODER = json.JSONDecoder()


class RefusedQueryError(SourceError):
    """The server refused the query."""


class QueryResult:
    """A server's answer to an instant query.

    Attributes:
        warnings: why the result may be incomplete; known once all series have been read.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, OtherLabels, float, str]]:
        """Yield each series' instance, other labels, moment in Unix time, and value.

        Raises:
            SourceError: the text is not an answer to an instant query, or reports an error.
        """
        text, begin = self._text, _RESULT.search(self._text)
        try:
            if begin is None:
                self._check_envelope(json.loads(text))
                raise SourceError("its answer has no result; is this the address of a Prometheus server?")
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
                    "".join((value, *labels.values()))  # raises TypeError if one of them is not a string
                    instance = labels.pop(INSTANCE, "")
                    yield instance, (json.dumps(labels, sort_keys=True)[1:-1], ""), float(at), value
                end = _BETWEEN.match(text, place)
                if end is None:
                    raise SourceError("its answer is not JSON: no comma between two series")
                place = end.end()
            # What surrounds the series is small.
            self._check_envelope(json.loads(text[: begin.end()] + text[end.start() :]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            # Only JSONDecodeError has a message that helps a reader.
            why = error.msg if isinstance(error, json.JSONDecodeError) else "unexpected structure"
            raise SourceError(f"cannot parse its answer: {why}; is this a Prometheus server?") from None

    def _check_envelope(self, envelope: Any) -> None:
        if envelope["status"] != "success":
            raise RefusedQueryError(f"it refused the query: {shorten(envelope.get('error', 'no reason given'))}")
        if envelope["data"]["resultType"] != "vector":
            raise SourceError("its answer is not an instant vector")
        self.warnings = tuple(shorten(warning) for warning in envelope.get("warnings", ()))


def labels_of(others: OtherLabels) -> dict[str, str]:
    """Parse the labels of a series, ``instance`` excluded.

    Raises:
        SourceError: the text is not a set of labels.
    """
    before, after = others
    try:
        found = json.loads(f"{{{before.rstrip(',')}{after if before else after.lstrip(',')}}}")
        "".join(found.values())
    except (ValueError, TypeError, RecursionError):
        raise SourceError(f"cannot parse the labels of a series: {shorten(before + after)}") from None
    return dict(found)

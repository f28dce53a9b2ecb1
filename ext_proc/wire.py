"""Envoy's external-processing protocol: parses messages, and writes assignments as answers.

:mod:`ext_proc.service` calls it. No other module knows Envoy's protobuf messages, which are parsed and built with
xds-protos on protobuf's C core (see docs/decisions/0002-wire-library.md).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final, Literal, NamedTuple, get_args

from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HeadersResponse,
    ProcessingRequest,
    ProcessingResponse,
    TrailersResponse,
)
from google.protobuf.message import DecodeError

from abmesh.experiment.model import Document
from abmesh.experiment.names import (
    CONTINUED,
    EVENT,
    EVENT_VALUE,
    EXPERIMENT,
    GROUP,
    ISSUED,
    METADATA_NAMESPACE,
    METADATA_SET_COOKIE,
    MODEL_VERSION,
    PLACE,
    REASON,
    SEGMENT,
    SLICE,
    UPSTREAM_TIMEOUT,
)
from abmesh.experiment.places import place_of
from ext_proc.core.assignment import FEEDBACK, NO_CONFIG, Assignment

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
METHOD: Final = "Process"

Kind = Literal[
    "request_headers",
    "response_headers",
    "request_body",
    "response_body",
    "request_trailers",
    "response_trailers",
    "unknown",
    "undecodable",
    "unsupported",
]
"""The kind of a message.

The first six are Envoy's own names. ``unknown`` is a kind that a later Envoy may send, ``undecodable`` stands for bytes
that are not a message, and ``unsupported`` opens a stream in a body mode whose answers would have to carry the body
itself (full duplex, gRPC).
"""

REQUEST_HEADERS: Final = "request_headers"
ENDS_STREAM: Final[frozenset[Kind]] = frozenset({"unknown", "undecodable", "unsupported"})
"""Kinds without an answer: the stream is closed, and Envoy continues without us."""

_COMMON = CommonResponse()
UNTOUCHED: Final[Mapping[str, bytes]] = {
    REQUEST_HEADERS: ProcessingResponse(request_headers=HeadersResponse(response=_COMMON)).SerializeToString(),
    "response_headers": ProcessingResponse(response_headers=HeadersResponse(response=_COMMON)).SerializeToString(),
    "request_body": ProcessingResponse(request_body=BodyResponse(response=_COMMON)).SerializeToString(),
    "response_body": ProcessingResponse(response_body=BodyResponse(response=_COMMON)).SerializeToString(),
    "request_trailers": ProcessingResponse(
        request_trailers=TrailersResponse(header_mutation=HeaderMutation())
    ).SerializeToString(),
    "response_trailers": ProcessingResponse(
        response_trailers=TrailersResponse(header_mutation=HeaderMutation())
    ).SerializeToString(),
}
"""For each kind, the answer that changes nothing."""

_MOST_ANSWERS: Final = 50_000
"""Answers kept, at about 300 bytes each. An experiment needs one per variant, slice and segment."""

_CARRIES_BODIES: Final = frozenset({ProcessingMode.FULL_DUPLEX_STREAMED, ProcessingMode.GRPC})
_NO_BODY: Final[int] = ProcessingMode.NONE
_KINDS: Final[Mapping[str | None, Kind]] = {kind: kind for kind in get_args(Kind)}
_parse = ProcessingRequest.FromString


class Message(NamedTuple):
    """One message from Envoy.

    Attributes:
        headers: the wanted headers of a request; empty for every other kind.
        expects_answer: false in observability mode, where Envoy ignores answers.
        decides: whether no later message of the stream can need an answer: these are request headers, and Envoy has
            declared that it sends no bodies. Response headers and trailers may still come, but our answer to them
            would be "no change", which is also what the end of a stream means to Envoy.
    """

    kind: Kind
    headers: Mapping[str, list[bytes]]
    expects_answer: bool = True
    decides: bool = False


_NO_HEADERS: Mapping[str, list[bytes]] = {}


def read(message: bytes, wanted: Container[str]) -> Message:
    """Parse a message.

    Args:
        message: any bytes.
        wanted: lower-case names of the headers to return; the others are skipped.
    """
    try:
        parsed = _parse(message)
    except DecodeError:
        return Message("undecodable", _NO_HEADERS)
    kind = _KINDS.get(parsed.WhichOneof("request"), "unknown")
    decides = False
    if parsed.HasField("protocol_config"):
        config = parsed.protocol_config
        request_mode, response_mode = config.request_body_mode, config.response_body_mode
        if request_mode == response_mode == _NO_BODY:
            decides = True
        elif request_mode in _CARRIES_BODIES or response_mode in _CARRIES_BODIES:
            kind = "unsupported"
    expects_answer = not parsed.observability_mode
    if kind != REQUEST_HEADERS:
        return Message(kind, _NO_HEADERS, expects_answer)
    headers: dict[str, list[bytes]] = {}
    for header in parsed.request_headers.headers.headers:
        name = header.key
        if name in wanted:
            # Envoy fills raw_value; very old versions, or a runtime switch, fill the text field instead.
            value = header.raw_value or header.value.encode()
            if name in headers:
                headers[name].append(value)
            else:
                headers[name] = [value]
    return Message(REQUEST_HEADERS, headers, expects_answer, decides)


def _headers_set(values: Mapping[str, object], *, choose_route: bool = False) -> bytes:
    """An answer that sets request headers. Appended to another answer, it adds its headers to that answer's."""
    common = CommonResponse(clear_route_cache=choose_route)
    for name, value in values.items():
        option = common.header_mutation.set_headers.add(
            append_action=HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
        )
        option.header.key = name
        option.header.raw_value = str(value).encode()
    answer: bytes = ProcessingResponse(request_headers=HeadersResponse(response=common)).SerializeToString()
    return answer


ASSIGNED: Final = "assigned"
"""The reason of every request that has a variant; the others carry the reason of their assignment."""

UNCONFIGURED: Final = _headers_set({REASON: NO_CONFIG.reason})
"""The answer to a request that came before the first valid document."""

_ISSUED: Final = _headers_set({ISSUED: 1})
_CONTINUED: Final = _headers_set({CONTINUED: 1})


class Answers:
    """The answers to requests under one document, each built when it is first needed and then kept."""

    def __init__(self, document: Document) -> None:
        self._timeouts = {
            (experiment.name, variant.name): round(variant.timeout.total_seconds() * 1000)
            for experiment in document.experiments
            for variant in experiment.variants
            if variant.timeout is not None
        }
        self._built: dict[tuple[str, str, int | None, str | None], bytes] = {}

    def write(self, assignment: Assignment) -> bytes:
        """The answer that carries an assignment."""
        if assignment.event is None and assignment.reason in FEEDBACK:
            # The experiment tells Envoy that the server was reached.
            return _headers_set({EXPERIMENT: assignment.experiment, REASON: assignment.reason}, choose_route=True)
        if not assignment.variant:
            return _headers_set({REASON: assignment.reason})
        key = (assignment.experiment, assignment.variant, assignment.slice, assignment.segment)
        answer = self._built.get(key)
        if answer is None:
            if len(self._built) >= _MOST_ANSWERS:
                self._built.clear()
            answer = self._built[key] = self._build(assignment)
        # Concatenated protobuf messages parse as one, with inner messages and lists merged.
        if assignment.set_cookie is not None:
            session = _CONTINUED if assignment.continued else _ISSUED
            return answer + session + _cookie_metadata(assignment.set_cookie)
        if assignment.event is not None:
            value = {} if assignment.value is None else {EVENT_VALUE: assignment.value}
            issued = {ISSUED: 1} if assignment.in_session else {}
            return answer + _headers_set({EVENT: assignment.event, **value, **issued})
        return answer

    def _build(self, assignment: Assignment) -> bytes:
        values: dict[str, object] = {
            MODEL_VERSION: assignment.variant,
            EXPERIMENT: assignment.experiment,
            PLACE: place_of(assignment.experiment, assignment.variant),
            REASON: ASSIGNED,
        }
        if assignment.slice is not None:
            values[SLICE] = assignment.slice
            values[GROUP] = assignment.group
        if assignment.segment is not None:
            values[SEGMENT] = assignment.segment
        timeout = self._timeouts.get((assignment.experiment, assignment.variant))
        if timeout is not None:
            values[UPSTREAM_TIMEOUT] = timeout
        return _headers_set(values, choose_route=True)


def _cookie_metadata(set_cookie: str) -> bytes:
    response = ProcessingResponse()
    values = response.dynamic_metadata.fields[METADATA_NAMESPACE].struct_value
    values.fields[METADATA_SET_COOKIE].string_value = set_cookie
    metadata: bytes = response.SerializeToString()
    return metadata

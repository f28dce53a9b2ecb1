"""Documents and messages that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    HttpTrailers,
    ProcessingRequest,
    ProcessingResponse,
)

from abmesh.experiment.model import Document

Pairs = Iterable[tuple[str, bytes]]

EXPERIMENT: dict[str, Any] = {
    "name": "chat-model",
    "salt": "chat-model-2026-11",
    "match": {"path_prefix": "/v1/"},
    "unit": [{"header": "x-user-id"}, {"cookie": "llm-session"}, {"query": "user_id"}],
    "issue_cookie": {"name": "llm-session", "max_age": "1h"},
    "variants": [
        {"name": "model-a", "cluster": "model-a", "weight": 90, "control": True, "timeout": "30s"},
        {"name": "model-b", "cluster": "model-b", "weight": 10},
    ],
    "overrides": [{"header": {"x-user-group": "beta-testers"}, "variant": "model-b"}],
    "segments": {"header": "x-user-segment", "values": ["power", "casual"]},
}


EVERY_KIND = {
    "request_headers": ProcessingRequest(request_headers=HttpHeaders()),
    "response_headers": ProcessingRequest(response_headers=HttpHeaders()),
    "request_body": ProcessingRequest(request_body=HttpBody(body=b"x")),
    "response_body": ProcessingRequest(response_body=HttpBody(body=b"x")),
    "request_trailers": ProcessingRequest(request_trailers=HttpTrailers()),
    "response_trailers": ProcessingRequest(response_trailers=HttpTrailers()),
}
"""One message of every kind."""

DOCUMENT_TEXT = """\
version: 1
experiments:
  - name: chat-model
    match: {path_prefix: /v1/}
    unit: [{header: x-user-id}, {cookie: llm-session}]
    issue_cookie: {name: llm-session, max_age: 1h}
    variants:
      - {name: model-a, cluster: model-a, weight: 50, control: true}
      - {name: model-b, cluster: model-b, weight: 50}
"""


def document(*experiments: Mapping[str, Any], event_origins: Iterable[str] = ()) -> Document:
    """A document of experiments, each given as changes to the default one; just the default one if none is given."""
    merged = [{**EXPERIMENT, **changes} for changes in experiments or ({},)]
    return Document.model_validate({"version": 1, "event_origins": tuple(event_origins), "experiments": merged})


def request_headers(headers: Pairs = (), *, target: bytes = b"/v1/chat", **fields: Any) -> bytes:
    """A message about a request's headers, as Envoy writes it."""
    message = ProcessingRequest(**fields)
    for name, value in ((":path", target), (":authority", b"api.example.com"), *headers):
        message.request_headers.headers.headers.add(key=name, raw_value=value)
    serialized: bytes = message.SerializeToString()
    return serialized


def response(answer: object) -> ProcessingResponse:
    """An answer, parsed."""
    assert isinstance(answer, bytes)
    return ProcessingResponse.FromString(answer)


def headers_set(answer: object) -> dict[str, str]:
    """The request headers that an answer sets."""
    mutation = response(answer).request_headers.response.header_mutation
    return {option.header.key: option.header.raw_value.decode() for option in mutation.set_headers}

"""The Go server assigns as ours does: the same law, the same answers. Skipped where Go is not installed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse

from abmesh.experiment import bucketing
from abmesh.experiment.model import Document
from bench import documents, go_server
from ext_proc.service import Last, Service, compile_rules
from ext_proc.telemetry import Counts
from tests.paths import ROOT

REASON = go_server.missing()
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(bool(REASON), reason=f"the Go server is not compared: {REASON}"),
]

LAW = ROOT / "docs" / "assignment.md"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return go_server.build(tmp_path_factory.mktemp("go"))


def ask(program: Path, lines: Sequence[str], *arguments: str) -> list[str]:
    command = [str(program), *arguments]
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def test_buckets_are_those_of_the_law(program: Path) -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| `[0-9a-f]{16}` \| (\d+) \|$", LAW.read_text(), re.MULTILINE)
    assert len(rows) >= 10
    found = ask(program, [f"{salt}\t{unit}" for salt, unit, _ in rows], "--answer", "buckets")
    assert found == [bucket for _, _, bucket in rows]


def test_buckets_are_those_of_thousands_of_users(program: Path) -> None:
    units = [f"user-{number}" + "é" * (number % 7) + "x" * (number % 300) for number in range(3000)]
    found = ask(program, [f"chat-model\t{unit}" for unit in units], "--answer", "buckets")
    assert list(map(int, found)) == [bucketing.bucket_of("chat-model", unit.encode()) for unit in units]


def message(headers: Sequence[tuple[str, bytes]], *, alone: bool = True) -> bytes:
    made = ProcessingRequest()
    made.request_headers.headers.headers.extend(HeaderValue(key=key, raw_value=value) for key, value in headers)
    if alone:
        made.protocol_config.SetInParent()
    encoded: bytes = made.SerializeToString()
    return encoded


def requests() -> list[bytes]:
    """Messages of every kind that the benchmark's document tells apart."""
    path = (":path", b"/v1/models")
    users = [[path, ("x-user-id", f"user-{number}".encode())] for number in range(500)]
    odd: list[list[tuple[str, bytes]]] = [
        [path, ("x-user-id", b"  padded\t")],
        [path, ("x-user-id", b""), ("x-user-id", b"second")],
        [path, ("x-user-id", "zoë-🚀".encode())],
        [path, ("x-user-id", b"\xff\xfe not UTF-8")],
        [path, ("cookie", b"a=1; llm-session=abc ; b=2")],
        [path, ("cookie", b"llm-session=; llm-session=x; c"), ("cookie", b"llm-session=later")],
        [path, ("cookie", b"xllm-session=no"), ("cookie", b" llm-session = blanks ")],
        [(":path", b"/v1/x?a=1&user_id=al%20ice+b%zz%4&user_id=bob#user_id=no")],
        [(":path", b"/v1/x?user_id=&user_id=bob")],
        [(":path", b"/v1/x?xuser_id=no&user_id=yes")],
        [path, ("x-user-id", b"u"), ("x-user-group", b"beta-testers")],
        [path, ("x-user-id", b"u"), ("x-user-group", b"beta-testers"), ("x-user-group", b"more")],
        [path, ("x-user-id", b"u"), ("x-user-segment", b"power"), ("unread", b"1" * 500)],
        [path, ("x-user-id", b"u"), ("x-user-segment", b"casual")],
        [path, ("x-user-id", b"u"), ("x-user-segment", b"unheard-of")],
        [(":path", b"/elsewhere"), ("x-user-id", b"u")],
        [],
    ]
    others = []
    for kind in ("response_headers", "request_body", "response_body", "request_trailers", "response_trailers"):
        made = ProcessingRequest()
        getattr(made, kind).SetInParent()
        others.append(made.SerializeToString())
    more = [message([*headers, ("x-user-segment", b"power")], alone=False) for headers in users[:50]]
    return [*map(message, [*users, *odd]), *more, *others]


def ours(document: Document, messages: Sequence[bytes], identities: Sequence[str]) -> list[tuple[bytes, bool]]:
    given = iter(identities)
    service = Service(Counts(), identities=lambda: next(given))
    service.rules = compile_rules(document)
    found = []
    for one in messages:
        answer = service.answer(one)
        last = isinstance(answer, Last)
        content = answer.answer if isinstance(answer, Last) else answer
        assert isinstance(content, bytes)
        found.append((content, last))
    return found


def fields(answer: bytes) -> object:
    """What an answer says: the order in which bytes say it is its writer's."""
    return ProcessingResponse.FromString(answer)


@pytest.mark.parametrize("experiments", [1, 10])
def test_answers_are_ours(program: Path, tmp_path: Path, experiments: int) -> None:
    document = documents.document(8001, experiments=experiments)
    config = tmp_path / "go.json"
    config.write_text(json.dumps(go_server.config_of(document)))
    messages = requests()
    lines = ask(program, [one.hex() for one in messages], "--config", str(config), "--answer", "messages")
    theirs = [(bytes.fromhex(answer), last == "true") for answer, last in (line.split(" ") for line in lines)]
    assert len(theirs) == len(messages)
    assert [(fields(answer), last) for answer, last in theirs] == [
        (fields(answer), last) for answer, last in ours(document, messages, [])
    ]


@pytest.mark.parametrize("secure", [True, False])
def test_a_request_without_an_identity_gets_one_and_its_place(program: Path, tmp_path: Path, secure: bool) -> None:
    document = documents.document(8001)
    config = tmp_path / "go.json"
    config.write_text(json.dumps(go_server.config_of(document)))
    plain = message([(":path", b"/v1/x"), ("x-forwarded-proto", b"https" if secure else b"http")])
    lines = ask(program, [plain.hex()] * 20, "--config", str(config), "--answer", "messages")
    seen = set()
    for line in lines:
        theirs = bytes.fromhex(line.split(" ")[0])
        parsed = ProcessingResponse.FromString(theirs)
        cookie = parsed.dynamic_metadata.fields["abmesh"].struct_value.fields["set_cookie"].string_value
        fresh = cookie.partition("=")[2].partition(";")[0]
        assert re.fullmatch("[0-9a-f]{32}", fresh)
        seen.add(fresh)
        ((mine, _),) = ours(document, [plain], [fresh])
        assert fields(theirs) == fields(mine)
    assert len(seen) == 20

"""Whatever a request holds: if a native route takes it, it gets what the server would have given it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from abmesh.experiment.model import Document
from ext_proc.core.assignment import Assignment
from ext_proc.core.table import Table, compile_document
from ext_proc.wire import Answers
from tests.abmesh.mesh.documents import document, experiment, render_routes
from tests.abmesh.mesh.envoy_reading import Headers, Taken, take
from tests.examples import examples

UNIT = [{"header": "x-user-id"}, {"cookie": "sid"}, {"query": "user.id"}]
VARIANTS = [
    {"name": "v0", "cluster": "a", "weight": 33.33, "control": True, "timeout": "30s"},
    {"name": "v1", "cluster": "b", "weight": 0, "timeout": "1m"},
    {"name": "v2", "cluster": "c", "weight": 20},
    {"name": "v3", "cluster": "a", "weight": 46.67},
]
RANGES = {
    "v0": [[0, 5000], [9000, 10_000]],
    "v1": [[5000, 6000]],
    "v2": [[6000, 7000], [8000, 9000]],
    "v3": [[7000, 8000]],
}


def native(name: str = "chat", **changes: Any) -> dict[str, Any]:
    fields = {"lane": "native", "unit": UNIT, "variants": VARIANTS, "ranges": RANGES, **changes}
    return experiment(name, **fields)


OF_ONE = document(native(overrides=[{"header": {"x-group": "beta", "x-tier": "a,b"}, "variant": "v1"}]))
OF_SEVERAL = document(
    experiment("first", match={"path_prefix": "/v1/", "host": "ask.example"}, unit=UNIT),
    native("second", match={"path_prefix": "/v1/", "headers": {"x-tier": "gold"}}, unit=UNIT[::-1]),
    native("third", match={"path_prefix": "/v1/"}, unit=[{"cookie": "sid"}, {"cookie": "a"}, {"header": "x-user-id"}]),
)
CONTINUED = document(
    native(issue_cookie={"name": "sid", "max_age": "1h"}, events=["continuation"], unit=[UNIT[1], UNIT[0], UNIT[2]])
)
DOCUMENTS = [OF_ONE, OF_SEVERAL, CONTINUED]
RENDERED = [
    (of, compile_document(of), render_routes(of)["resources"][0]["virtual_hosts"][0]["routes"]) for of in DOCUMENTS
]

_PIECES = [b"sid", b"user.id", b"=", b";", b" ", b",", b"&", b"?", b"%41", b"+", b"u-1", b"\xff", "\u7528".encode()]
TEXTS = st.lists(st.sampled_from(_PIECES), max_size=6).map(b"".join)
BYTES = st.binary(max_size=20).map(lambda value: value.translate(None, b"\n\r\0"))
BLANKS = st.sampled_from([b"", b"", b"", b" ", b"\t", b" \t "])
UNITS = st.sampled_from(
    [b"", b"u-1", b"u 1", "Zo\u00eb \u7528".encode(), b"a,b", b"a=b", b'"u"', b"\xff", b"%41", b"+", b"?"]
)
COOKIE = st.tuples(
    BLANKS,
    st.sampled_from([b"sid", b"sid", b"a", b"asid", b"sidx", b""]),
    BLANKS,
    st.sampled_from([b"=", b"=", b""]),
    BLANKS,
    UNITS,
    BLANKS,
).map(b"".join)
COOKIES = st.lists(COOKIE, max_size=4).map(b";".join) | TEXTS
PARAMETER = st.tuples(
    st.sampled_from([b"user.id", b"user.id", b"userxid", b"a"]), st.sampled_from([b"=", b"=", b""]), UNITS
).map(b"".join)
QUERIES = st.lists(PARAMETER, max_size=4).map(b"&".join) | TEXTS
PATHS = st.tuples(
    st.sampled_from([b"/v1/", b"/v1/x", b"/", b"/v1/&user.id=u"]), st.just(b"") | QUERIES.map(b"?".__add__)
).map(b"".join)
HOSTS = [b"ask.example", b"ASK.example:80", b"ask.example:x", b"ask.example:", b"other", b"[::1]:80", b""]
HOSTS += ["a\u017f\u212a.example".encode()]  # letters that are s and k to a pattern in any case


@st.composite
def requests(draw: st.DrawFn) -> Headers:
    """Requests that are unusual in some way, but mostly close to what clients send."""
    headers: dict[str, list[bytes]] = {":path": [draw(PATHS)], ":authority": [draw(st.sampled_from(HOSTS))]}
    of_each = {
        "cookie": COOKIES,
        "x-user-id": st.tuples(BLANKS, UNITS, BLANKS).map(b"".join) | BYTES,
        "x-group": st.just(b"beta"),
        "x-tier": st.sampled_from([b"gold", b"a,b", b"a", b"b"]),
    }
    for name in draw(st.lists(st.sampled_from([*of_each, "cookie"]), max_size=3)):
        headers.setdefault(name, []).append(draw(of_each[name]))
    return headers


def answered(of: Document, assignment: Assignment) -> dict[str, str]:
    """The request headers that the server's answer sets."""
    from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse

    response = ProcessingResponse.FromString(Answers(of).write(assignment))
    options = response.request_headers.response.header_mutation.set_headers
    return {option.header.key: option.header.raw_value.decode() for option in options}


def never() -> str:
    raise AssertionError("a native route took a request that needs a new identity")


def agrees(of: Document, table: Table, routes: list[dict[str, Any]], headers: Headers) -> Taken:
    """Compare a request that a native route takes with the server's answer."""
    taken = take(routes, headers)
    if "/native/" in taken.name:
        assert not taken.asks
        assignment = table.assign(headers, never)
        assert assignment.set_cookie is None
        said = answered(of, assignment)
        # Where the server names a place, a native route marks the request itself.
        assert said.pop("x-ab-reason") == "assigned"
        assert said.pop("x-ab-place")
        assert taken.set_headers == {**said, "x-ab-route": assignment.experiment}
        assert taken.stamp == assignment.variant
        assert taken.cluster == of.experiment(assignment.experiment).variant(assignment.variant).cluster
        assert taken.name.startswith(f"{assignment.experiment}/native/")
    return taken


@examples(400)
@given(st.sampled_from(RENDERED), requests())
def test_a_native_route_gives_what_the_server_gives(
    rendered: tuple[Document, Table, list[dict[str, Any]]], headers: Headers
) -> None:
    agrees(*rendered, headers)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=",;"), min_size=1, max_size=30)
PLAIN = TEXT.map(lambda text: text.strip(" \t").encode()).filter(bool)


@examples(100)
@given(PLAIN, st.sampled_from(["header", "cookie", "both"]))
@example("Zoë 用户".encode(), "cookie")
@example(b"u-1", "header")
def test_plain_units_are_taken_by_a_native_route(unit: bytes, where: str) -> None:
    """Or the other tests could not fail."""
    headers: dict[str, list[bytes]] = {":path": [b"/v1/chat?x=%20+"], ":authority": [b"ask.example"]}
    if where != "header":
        headers["cookie"] = [b"theme=dark; sid= " + unit + b" ;asid=no"]
    if where != "cookie":
        headers["x-user-id"] = [unit]
    taken = agrees(*RENDERED[0], headers)
    assert taken.name == ("chat/native/cookie/sid" if where == "cookie" else "chat/native/header/x-user-id")


@pytest.mark.parametrize(
    ("headers", "route"),
    [
        ({":path": [b"/?a&user.id=u-1&b=%20"]}, "query/user.id"),
        ({":path": [b"/?user.id=&user.id=u-1"], "cookie": [b"asid=1; sidx=2"]}, "query/user.id"),
        ({"cookie": [b"sid=; sid=second"]}, "cookie/sid"),
        ({"x-group": [b"beta"], "x-tier": [b"a", b"b"], "x-user-id": [b"a,b"]}, "override/0"),
    ],
)
def test_unusual_but_plain_requests_take_a_native_route(headers: dict[str, list[bytes]], route: str) -> None:
    taken = agrees(*RENDERED[0], {":path": [b"/"], ":authority": [b"x"], **headers})
    assert taken.name == f"chat/native/{route}"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-user-id": [b""]},
        {"x-user-id": [b" u"]},
        {"x-user-id": [b"a", b"b"]},
        {"x-user-id": [b"a,b"]},
        {"x-user-id": [b"\xff"]},
        {"x-user-id": [b""], "cookie": [b"sid=u"]},
        {"cookie": [b"sid=u", b"a=b"]},
        {"cookie": [b"sid=a,b"]},
        {"cookie": [b"sid="]},
        {"cookie": [b"sid=\xff; sid=u"]},
        {"cookie": [b"sid="], ":path": [b"/?user.id=u"]},
        {":path": [b"/?user.id=%41"]},
        {":path": [b"/?user.id=a+b&user.id=u"]},
        {":path": [b"/?user.id=\xc3\xa9"]},
        {":path": [b"/?user%2eid=u"]},
        {":path": [b"/?userxid=u"]},
    ],
)
def test_requests_that_envoy_may_read_differently_go_to_the_server(headers: dict[str, list[bytes]]) -> None:
    _, _, routes = RENDERED[0]
    assert take(routes, {":path": [b"/"], ":authority": [b"x"], **headers}).name == "chat"


@pytest.mark.parametrize(("host", "route"), [(b"other:80", "third/native/cookie/sid"), (b"other:x", "third")])
def test_a_host_that_may_match_an_earlier_experiment_goes_to_the_server(host: bytes, route: str) -> None:
    headers = {":path": [b"/v1/"], ":authority": [host], "cookie": [b"sid=u"]}
    assert agrees(*RENDERED[1], headers).name == route


def test_an_earlier_experiment_in_the_other_lane_wins() -> None:
    headers = {":path": [b"/v1/"], ":authority": [b"ask.example:1"], "cookie": [b"sid=u"], "x-tier": [b"gold"]}
    assert take(RENDERED[1][2], headers).name == "first"


def test_units_in_the_issued_cookie_go_to_the_server_if_continuation_is_an_event() -> None:
    usual = {":path": [b"/"], ":authority": [b"x"]}
    assert agrees(*RENDERED[2], {**usual, "cookie": [b"sid=u"], "x-user-id": [b"u"]}).name == "chat"
    assert (
        agrees(*RENDERED[2], {**usual, "cookie": [b"a=b"], "x-user-id": [b"u"]}).name == "chat/native/header/x-user-id"
    )

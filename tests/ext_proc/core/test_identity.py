import time
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.parts import IssueCookie, UnitSource
from ext_proc.core import identity

ANY_HEADERS = st.dictionaries(
    st.sampled_from(["x-user-id", "cookie", ":path", ":scheme", "x-forwarded-proto"]),
    st.lists(st.binary(max_size=200), min_size=1, max_size=3),
)


def find(headers: dict[str, list[bytes]], *sources: dict[str, str]) -> identity.Found | None:
    compiled = identity.compile_sources([UnitSource.model_validate(source) for source in sources])
    return identity.find_unit(compiled, headers)


def unit(headers: dict[str, list[bytes]], **source: str) -> bytes | None:
    found = find(headers, source)
    return None if found is None else found.unit


def test_a_header_is_the_unit_without_any_decoding() -> None:
    assert unit({"x-user-id": [b"u-1,\xff"]}, header="X-User-Id") == b"u-1,\xff"


def test_blanks_around_a_header_are_not_part_of_the_unit() -> None:
    assert unit({"x-user-id": [b" \tu 1\t "]}, header="x-user-id") == b"u 1"


def test_of_repeated_headers_the_first_that_is_not_empty_counts() -> None:
    assert unit({"x-user-id": [b"", b"  ", b"u-1", b"u-2"]}, header="x-user-id") == b"u-1"


@pytest.mark.parametrize(
    ("cookies", "expected"),
    [
        ([b"sid=u-1"], b"u-1"),
        ([b"a=b; sid=u-1; c=d"], b"u-1"),
        ([b"a=b;sid=u-1;c=d"], b"u-1"),
        ([b"sid = u-1 ;"], b"u-1"),
        ([b'sid="u-1"'], b'"u-1"'),
        ([b"sid=a=b"], b"a=b"),
        ([b"sid=first; sid=second"], b"first"),
        ([b"sid=; sid=second"], b"second"),
        ([b"a=b", b"sid=second header"], b"second header"),
        ([b"sid= ", b"sid=x"], b"x"),
        ([b"xsid=no; sidx=no; sid"], None),
        ([b"a=sid=no"], None),
        ([b"SID=no"], None),
        ([b";;=;=;sid;==;sid=x"], b"x"),
        ([b"sid=\xff\x00"], b"\xff\x00"),
        ([b""], None),
    ],
)
def test_a_cookie_is_found_however_the_header_is_written(cookies: list[bytes], expected: bytes | None) -> None:
    assert unit({"cookie": cookies}, cookie="sid") == expected


def test_a_cookie_name_is_not_a_pattern() -> None:
    assert unit({"cookie": [b"axc=no"]}, cookie="a.c") is None
    assert unit({"cookie": [b"a.c=yes"]}, cookie="a.c") == b"yes"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/v1?user_id=u-1", b"u-1"),
        (b"/v1?a=b&user_id=u%201&c", b"u 1"),
        (b"/v1?user_id=u+1", b"u 1"),
        (b"/v1?user_id=%FF%zz", b"\xff%zz"),
        (b"/v1?user_id=&user_id=second", b"second"),
        (b"/v1?user_id=first&user_id=second", b"first"),
        (b"/v1?user_id=u-1#user_id=no", b"u-1"),
        (b"/v1#?user_id=no", None),
        (b"/v1?xuser_id=no&user_idx=no", None),
        (b"/v1/user_id=no", None),
        (b"/v1?a?user_id=no", None),
        (b"", None),
    ],
)
def test_a_query_parameter_is_found_and_decoded(target: bytes, expected: bytes | None) -> None:
    assert unit({":path": [target]}, query="user_id") == expected


@given(st.text(min_size=1))
def test_any_text_survives_a_query_string(text: str) -> None:
    try:
        encoded = quote_plus(text)
    except UnicodeEncodeError:
        return
    assert unit({":path": [b"/?user_id=" + encoded.encode()]}, query="user_id") == text.encode()


def test_the_first_source_that_is_present_and_not_empty_wins() -> None:
    sources: list[dict[str, str]] = [{"header": "x-user-id"}, {"cookie": "sid"}, {"query": "user_id"}]
    everything = {"x-user-id": [b"h"], "cookie": [b"sid=c"], ":path": [b"/?user_id=q"]}
    header, cookie, query = identity.compile_sources([UnitSource.model_validate(source) for source in sources])
    assert find(everything, *sources) == (header, b"h")
    assert find({**everything, "x-user-id": [b" "]}, *sources) == (cookie, b"c")
    assert find({**everything, "x-user-id": [b""], "cookie": [b"sid="]}, *sources) == (query, b"q")
    assert find({":path": [b"/"]}, *sources) is None


@given(ANY_HEADERS)
def test_nothing_that_a_client_sends_raises(headers: dict[str, list[bytes]]) -> None:
    found = find(headers, {"header": "x-user-id"}, {"cookie": "sid"}, {"query": "user_id"})
    assert found is None or found.unit
    identity.compile_cookie(IssueCookie(name="sid", max_age="1h")).write("ab", headers)


@pytest.mark.parametrize("part", [b";", b"; ", b" ", b"sid", b"sid ", b";sid \t", b"sid=;", b"=", b'"', b"; sid"])
def test_scanning_a_huge_cookie_takes_linear_time(part: bytes) -> None:
    started = time.perf_counter()
    unit({"cookie": [part * (1_000_000 // len(part))]}, cookie="sid")
    assert time.perf_counter() - started < 2  # quadratic would be minutes


def cookie(**changes: object) -> identity.CookieForm:
    return identity.compile_cookie(IssueCookie.model_validate({"name": "sid", "max_age": "1h", **changes}))


def test_an_issued_cookie_is_written_with_its_attributes() -> None:
    assert cookie().write("abc", {}) == "sid=abc; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"
    strict = cookie(path="/v1", domain="example.com", same_site="strict", secure=True, max_age="1500ms")
    assert strict.write("abc", {}) == (
        "sid=abc; Path=/v1; Max-Age=1; HttpOnly; SameSite=Strict; Domain=example.com; Secure"
    )


@pytest.mark.parametrize(
    ("headers", "secure"),
    [
        ({"x-forwarded-proto": [b"https"]}, True),
        ({"x-forwarded-proto": [b"HTTPS"]}, True),
        ({"x-forwarded-proto": [b"http"]}, False),
        ({":scheme": [b"https"]}, True),
        ({":scheme": [b"https"], "x-forwarded-proto": [b"http"]}, False),
        ({"x-forwarded-proto": [b"\xff"]}, False),
        ({}, False),
    ],
)
def test_a_cookie_is_secure_where_the_client_spoke_https(headers: dict[str, list[bytes]], secure: bool) -> None:
    assert cookie(secure="auto").write("abc", headers).endswith("; Secure") is secure
    assert cookie(secure=True).write("abc", headers).endswith("; Secure")
    assert not cookie(secure=False).write("abc", headers).endswith("; Secure")

"""Which pages may send events, by the header ``origin``."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.core.origins import compile_origins
from tests.ext_proc.samples import document

SHOP = b"https://shop.example"
ORIGINS = compile_origins(document(event_origins=["https://shop.example", "http://localhost:8080"]))


def allowed(origin: bytes, authority: bytes = b"api.example.com", proto: bytes = b"https") -> bool:
    return ORIGINS.allow({":authority": [authority], "x-forwarded-proto": [proto], "origin": [origin]})


def test_an_event_without_an_origin_is_allowed() -> None:
    assert ORIGINS.allow({})
    assert ORIGINS.allow({":authority": [b"api.example.com"]})


@pytest.mark.parametrize(
    "origin", [SHOP, b"http://localhost:8080", b" https://shop.example\t", b"HTTPS://Shop.Example"]
)
def test_listed_origins_are_allowed(origin: bytes) -> None:
    assert allowed(origin)
    assert ORIGINS.allow({"origin": [origin]}), "whatever else the request says"


@pytest.mark.parametrize(
    "origin",
    [
        b"null",
        b"",
        b"https://",
        b"https://evil.example",
        b"http://shop.example",
        b"https://shop.example:8443",
        b"https://shop.example.evil.example",
        b"https://evil.example/https://shop.example",
        b"https://evilshop.example",
        b"https://shop.example/",
        b"https://shop.example, https://evil.example",
        b"shop.example",
        b"http://localhost",
        b"file://",
        b"\xff",
    ],
)
def test_other_origins_are_refused(origin: bytes) -> None:
    assert not allowed(origin)
    assert not compile_origins(document()).allow({"origin": [origin]})


def test_two_origins_are_refused() -> None:
    assert not ORIGINS.allow({"origin": [SHOP, SHOP]})


@pytest.mark.parametrize(
    ("origin", "authority", "proto"),
    [
        (b"https://api.example.com", b"api.example.com", b"https"),
        (b"https://api.example.com", b"API.Example.com:443", b"HTTPS"),
        (b"http://api.example.com", b"api.example.com:80", b"http"),
        (b"http://api.example.com:10000", b"api.example.com:10000", b"http"),
        (b"https://api.example.com:80", b"api.example.com:80", b"https"),
        (b"http://[::1]:10000", b"[::1]:10000", b"http"),
        (b"http://[::80]", b"[::80]", b"http"),
    ],
)
def test_a_sites_own_pages_are_allowed(origin: bytes, authority: bytes, proto: bytes) -> None:
    assert allowed(origin, authority, proto)


@pytest.mark.parametrize(
    ("origin", "authority", "proto"),
    [
        (b"http://api.example.com", b"api.example.com", b"https"),
        (b"https://api.example.com", b"api.example.com", b"http"),
        (b"https://api.example.com:10000", b"api.example.com", b"https"),
        (b"https://example.com", b"api.example.com", b"https"),
        (b"https://", b"", b"https"),
    ],
)
def test_an_own_origin_needs_the_same_scheme_host_and_port(origin: bytes, authority: bytes, proto: bytes) -> None:
    assert not allowed(origin, authority, proto)


def test_a_request_that_names_no_host_has_no_pages_of_its_own() -> None:
    assert not ORIGINS.allow({"origin": [b"http://"]})


hosts = st.from_regex(r"[a-z0-9-]{1,9}(\.[a-z0-9-]{1,9}){0,2}(:[0-9]{1,5})?", fullmatch=True).map(str.encode)
schemes = st.sampled_from([b"http", b"https"])


@given(schemes, hosts, st.data())
def test_however_a_host_is_spelled_its_own_pages_are_allowed(scheme: bytes, host: bytes, data: st.DataObject) -> None:
    upper = data.draw(st.lists(st.booleans(), min_size=len(host), max_size=len(host)))
    spelled = bytes(c - 32 if up and 97 <= c <= 122 else c for c, up in zip(host, upper, strict=True))
    if b":" not in host:
        spelled += data.draw(st.sampled_from([b"", b":443" if scheme == b"https" else b":80"]))
    assert allowed(scheme + b"://" + host, spelled, scheme)


@given(schemes, hosts, schemes, hosts)
def test_a_page_is_allowed_if_it_is_listed_or_its_origin_is_the_sites(
    scheme: bytes, page: bytes, proto: bytes, site: bytes
) -> None:
    usual = {b"http": b":80", b"https": b":443"}
    same = (scheme, page.removesuffix(usual[scheme])) == (proto, site.removesuffix(usual[proto]))
    listed = scheme + b"://" + page in ORIGINS.listed
    assert allowed(scheme + b"://" + page, site, proto) == (same or listed)


@given(
    st.dictionaries(
        st.sampled_from([":authority", ":scheme", "x-forwarded-proto"]), st.lists(st.binary(max_size=40), min_size=1)
    ),
    st.lists(st.binary(max_size=40), min_size=1, max_size=3),
)
def test_whatever_bytes_are_sent_only_an_allowed_origin_passes(
    headers: dict[str, list[bytes]], sent: list[bytes]
) -> None:
    if ORIGINS.allow({**headers, "origin": sent}):
        assert len(sent) == 1
        assert sent[0].strip(b" \t").lower().startswith((b"http://", b"https://"))


@pytest.mark.parametrize("part", [b"https://", b":443", b" ", b"a.", b"\xff"])
def test_huge_headers_take_linear_time(part: bytes) -> None:
    started = time.perf_counter()
    assert not allowed(b"https://" + part * (1_000_000 // len(part)), part * 1000)
    assert time.perf_counter() - started < 2  # quadratic would be minutes

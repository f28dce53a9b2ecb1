"""The second request of a session, where that is an event."""

import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.core.assignment import Assignment
from ext_proc.core.table import Table, compile_document
from tests.ext_proc.samples import document


def table(**changes: Any) -> Table:
    return compile_document(document({"events": ["click", "continuation"], **changes}))


USUAL = table()


def assign(rules: Table, target: bytes = b"/v1/chat", **headers: bytes) -> Assignment:
    named = {name.replace("_", "-"): [value] for name, value in headers.items()}
    return rules.assign({":path": [target], **named}, lambda: "feed")


def cookie_of(assignment: Assignment) -> bytes:
    """The headers that a client sends once it has stored an assignment's cookie."""
    assert assignment.set_cookie is not None
    return assignment.set_cookie.split(";")[0].encode()


def test_only_the_second_request_of_a_session_is_the_continuation() -> None:
    first = assign(USUAL)
    session = cookie_of(first)
    second = assign(USUAL, cookie=session)
    third = assign(USUAL, cookie=session + b"; " + cookie_of(second))
    assert [one.continued for one in (first, second, third)] == [False, True, False]
    assert [one.set_cookie is None for one in (first, second, third)] == [False, False, True]
    assert all(one.in_session for one in (first, second, third))
    assert second._replace(set_cookie=None, continued=False) == third


@pytest.mark.parametrize("between", [b"; ", b";", b"; a=b; ", b" ;\t"])
def test_the_marker_is_found_anywhere_in_the_cookies(between: bytes) -> None:
    session = b"llm-session=feed"
    mark = cookie_of(assign(USUAL, cookie=session))
    assert not assign(USUAL, cookie=mark + between + session).continued
    split = USUAL.assign({":path": [b"/v1/"], "cookie": [session, b"a=b", mark]}, lambda: "feed")
    assert not split.continued


def test_the_marker_has_the_attributes_of_the_session_cookie() -> None:
    form = {
        "name": "llm-session",
        "max_age": "2h",
        "path": "/v1",
        "domain": "example.com",
        "same_site": "strict",
    }
    rules = table(issue_cookie=form)
    for proto, secure in ((b"https", "; Secure"), (b"http", "")):
        first = assign(rules, x_forwarded_proto=proto)
        second = assign(rules, cookie=cookie_of(first), x_forwarded_proto=proto)
        attributes = f"; Path=/v1; Max-Age=7200; HttpOnly; SameSite=Strict; Domain=example.com{secure}"
        assert first.set_cookie == f"llm-session=feed{attributes}"
        assert second.set_cookie is not None
        name, _, rest = second.set_cookie.partition("=")
        assert name == "llm-session-continued"
        assert rest.endswith(attributes)
        assert len(rest) == 16 + len(attributes)


def test_a_marker_of_an_earlier_session_does_not_match_this_one() -> None:
    """A marker outlives its session by the time between the session's first and second request."""
    stale = cookie_of(assign(USUAL, cookie=b"llm-session=earlier"))
    assert assign(USUAL, cookie=stale + b"; llm-session=feed").continued
    fresh = cookie_of(assign(USUAL, cookie=b"llm-session=feed"))
    assert not assign(USUAL, cookie=stale + b"; " + fresh + b"; llm-session=feed").continued


def test_only_the_issued_cookie_is_a_session() -> None:
    rules = table(unit=[{"header": "x-user-id"}, {"cookie": "login"}, {"cookie": "llm-session"}, {"query": "user_id"}])
    session = b"llm-session=feed"
    assert assign(rules, cookie=session).continued
    for other in (
        assign(rules, cookie=session, x_user_id=b"u"),
        assign(rules, cookie=session + b"; login=feed"),
        assign(rules, target=b"/v1/?user_id=u"),
        assign(rules, cookie=b"llm-session-continued=1"),
    ):
        assert not other.continued


def test_an_override_continues_nothing() -> None:
    forced = assign(USUAL, cookie=b"llm-session=feed", x_user_group=b"beta-testers")
    assert forced.reason == "override"
    assert forced.set_cookie is None
    assert not forced.continued


def test_an_event_continues_nothing() -> None:
    event = assign(USUAL, b"/_ab/events/click", cookie=b"llm-session=feed")
    assert event.reason == "event"
    assert event.set_cookie is None
    assert not event.continued


@pytest.mark.parametrize("changes", [{"events": ["click"]}, {"events": []}])
def test_without_the_event_continuation_no_marker_is_set(changes: Mapping[str, Any]) -> None:
    assert assign(table(**changes), cookie=b"llm-session=feed").set_cookie is None


@given(st.binary(max_size=100).filter(lambda unit: b";" not in unit), st.lists(st.binary(max_size=100), max_size=3))
def test_whatever_a_client_sends_a_marker_is_a_plain_cookie(unit: bytes, others: list[bytes]) -> None:
    headers = {":path": [b"/v1/"], "cookie": [b"llm-session=" + unit, *others]}
    marked = USUAL.assign(headers, lambda: "feed")
    if marked.continued:
        assert cookie_of(marked).removeprefix(b"llm-session-continued=").isalnum()
        again = USUAL.assign({**headers, "cookie": [*headers["cookie"], cookie_of(marked)]}, lambda: "feed")
        assert not again.continued


@pytest.mark.parametrize("part", [b"llm-session-continued=;", b"llm-session-continued", b"; ", b"=", b"llm-session=a;"])
def test_searching_a_huge_cookie_for_markers_takes_linear_time(part: bytes) -> None:
    started = time.perf_counter()
    assign(USUAL, cookie=b"llm-session=a;" + part * (1_000_000 // len(part)))
    assert time.perf_counter() - started < 2  # quadratic would be minutes

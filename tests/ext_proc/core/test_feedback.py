"""What feedback events get: requests to /_ab/events/NAME."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.core.assignment import FEEDBACK, UNMATCHED, Assignment
from ext_proc.core.table import Table, compile_document
from tests.ext_proc.samples import document

EVENTS = ["click", "thumbs_up", "continuation", {"name": "purchase", "value": {"min": 1, "max": 500}}]
CLICK = b"/_ab/events/click"
PURCHASE = b"/_ab/events/purchase"


def table(*experiments: Mapping[str, Any]) -> Table:
    return compile_document(document(*({"events": EVENTS, **changes} for changes in experiments or ({},))))


def no_identity() -> str:
    raise AssertionError("no identity is needed")


def assign(rules: Table, target: bytes = CLICK, **headers: bytes) -> Assignment:
    named = {name.replace("_", "-"): [value] for name, value in headers.items()}
    return rules.assign({":path": [target], ":authority": [b"api.example.com"], **named}, no_identity)


USUAL = table()
LISTED = compile_document(document({"events": EVENTS}, event_origins=["https://shop.example"]))


@pytest.mark.parametrize(
    "sender", [{"x_user_id": b"u-7"}, {"cookie": b"llm-session=u-7"}, {"x_user_id": b"u-7", "x_user_segment": b"power"}]
)
def test_an_event_gets_what_its_senders_other_requests_get(sender: dict[str, bytes]) -> None:
    other = compile_document(document()).assign(
        {":path": [b"/v1/chat"], **{name.replace("_", "-"): [value] for name, value in sender.items()}}, no_identity
    )
    assert assign(USUAL, **sender) == other._replace(reason="event", event="click")


def test_an_event_is_part_of_a_session_if_its_unit_is_the_issued_cookie() -> None:
    session = b"llm-session=feed"
    assert assign(USUAL, cookie=session).in_session
    for other in (
        assign(USUAL, cookie=session, x_user_id=b"u"),
        assign(USUAL, CLICK + b"?user_id=u"),
        assign(USUAL, cookie=session, x_user_group=b"beta-testers"),
        assign(USUAL),
        assign(table({"unit": [{"cookie": "login"}, {"cookie": "llm-session"}]}), cookie=session + b"; login=a"),
        assign(table({"issue_cookie": None, "events": ["click"]}), cookie=session),
    ):
        assert not other.in_session


def test_a_unit_in_the_query_counts_too() -> None:
    assert assign(USUAL, CLICK + b"?user_id=u-7") == assign(USUAL, x_user_id=b"u-7")


def test_an_event_without_a_unit_gets_its_experiment_and_no_cookie() -> None:
    assert assign(USUAL) == Assignment("event_no_unit", "chat-model")


def test_an_override_decides_for_events_too_and_is_not_evidence() -> None:
    forced = assign(USUAL, x_user_group=b"beta-testers", x_user_id=b"u", x_user_segment=b"power")
    assert forced == Assignment("event", "chat-model", "model-b", segment="power", event="click")


def test_a_value_is_handed_on_in_thousandths() -> None:
    event = assign(USUAL, PURCHASE + b"?value=12.5", x_user_id=b"u")
    assert (event.reason, event.event, event.value) == ("event", "purchase", 12_500)
    assert assign(USUAL, PURCHASE, x_user_id=b"u") == event._replace(value=None)


@pytest.mark.parametrize("target", [PURCHASE + b"?value=500.001", PURCHASE + b"?value=", CLICK + b"?value=1"])
def test_an_event_with_a_wrong_value_is_refused(target: bytes) -> None:
    right = assign(USUAL, x_user_id=b"u")
    assert assign(USUAL, target, x_user_id=b"u") == right._replace(reason="event_wrong_value", event=None)


def test_a_wrong_value_without_a_unit_is_an_event_without_a_unit() -> None:
    assert assign(USUAL, PURCHASE + b"?value=x").reason == "event_no_unit"


@pytest.mark.parametrize(
    "name", [b"", b"nobody", b"Click", b"click/", b"click/x", b"cl%69ck", b"continuation", b"\xff", b"click;a=b"]
)
def test_events_that_no_experiment_declares_pass_untouched(name: bytes) -> None:
    assert assign(USUAL, b"/_ab/events/" + name, x_user_id=b"u") is UNMATCHED


@pytest.mark.parametrize("prefix", ["/", "/_ab/", "/_ab/events/", "/_ab/events/nobody"])
def test_no_experiment_treats_an_event_as_a_request(prefix: str) -> None:
    rules = table({"match": {"path_prefix": prefix}})
    assert assign(rules, b"/_ab/events/nobody", x_user_id=b"u") is UNMATCHED
    assert assign(rules, x_user_id=b"u").reason == "event"


@pytest.mark.parametrize(
    "target", [b"/_ab/events", b"/_AB/events/click", b"/x/_ab/events/click", b"/?/_ab/events/click"]
)
def test_other_paths_are_requests(target: bytes) -> None:
    assert assign(table({"match": {"path_prefix": "/"}}), target, x_user_id=b"u").reason == "header"


TWO = table(
    {"name": "one", "match": {"host": "one.example.com", "path_prefix": "/one/"}, "events": ["click", "only_one"]},
    {"name": "two", "match": {"headers": {"x-tenant": "two"}}, "events": ["click"]},
    {"name": "three", "events": ["click"]},
)


def test_an_event_belongs_to_the_first_experiment_that_declares_it_and_matches() -> None:
    assert assign(TWO, x_user_id=b"u", x_tenant=b"two").experiment == "two"
    assert assign(TWO, x_user_id=b"u").experiment == "three"
    elsewhere = {":path": [CLICK], ":authority": [b"ONE.example.com:80"], "x-user-id": [b"u"], "x-tenant": [b"two"]}
    assert TWO.assign(elsewhere, no_identity).experiment == "one"


def test_an_event_may_name_its_experiment_whatever_else_it_matches() -> None:
    for name in ("one", "two", "three"):
        event = assign(TWO, CLICK + b"?experiment=" + name.encode(), x_user_id=b"u", x_tenant=b"two")
        assert (event.reason, event.experiment) == ("event", name)


@pytest.mark.parametrize("named", [b"four", b"", b"ONE", b"\xff", b"four&experiment=one"])
def test_an_event_that_names_an_experiment_without_its_declaration_is_refused(named: bytes) -> None:
    wrong = assign(TWO, CLICK + b"?experiment=" + named, x_user_id=b"u")
    assert wrong == Assignment("event_unmatched", "one")
    assert assign(TWO, b"/_ab/events/only_one?experiment=two", x_user_id=b"u") == wrong


def test_an_event_that_matches_no_declaring_experiment_is_refused() -> None:
    assert assign(TWO, b"/_ab/events/only_one", x_user_id=b"u") == Assignment("event_unmatched", "one")


def test_each_experiment_places_its_events_by_its_own_salt() -> None:
    units = [b"u-%d" % number for number in range(200)]
    rules = table({"name": "one", "salt": "s1"}, {"name": "two", "salt": "s2"})
    places = {
        name: [assign(rules, CLICK + b"?experiment=" + name, x_user_id=unit)[2:4] for unit in units]
        for name in (b"one", b"two")
    }
    assert places[b"one"] != places[b"two"]


@pytest.mark.parametrize(
    ("origin", "counts"),
    [
        (b"https://shop.example", True),
        (b"http://api.example.com", True),
        (b"https://evil.example", False),
        (b"http://shop.example", False),
        (b"null", False),
        (b"", False),
    ],
)
def test_an_event_of_a_page_counts_if_its_origin_is_listed_or_the_requests_own(origin: bytes, counts: bool) -> None:
    usual = assign(LISTED, x_user_id=b"u")
    refused = Assignment("event_wrong_origin", "chat-model")
    assert assign(LISTED, x_user_id=b"u", origin=origin) == (usual if counts else refused)


def test_a_page_that_may_not_send_events_learns_nothing_about_its_visitor() -> None:
    evil = {"origin": b"https://evil.example"}
    for visitor in ({"x_user_id": b"u"}, {"x_user_group": b"beta-testers"}, {}):
        assert assign(USUAL, **visitor, **evil) == Assignment("event_wrong_origin", "chat-model")
    assert assign(USUAL, b"/_ab/events/nobody", **evil) is UNMATCHED


def test_origins_are_only_checked_for_events() -> None:
    request = assign(USUAL, b"/v1/chat", x_user_id=b"u", origin=b"https://evil.example")
    assert request == assign(USUAL, b"/v1/chat", x_user_id=b"u")


paths = st.sampled_from(
    [CLICK, PURCHASE, b"/_ab/events/", b"/_ab/events/purchase?value=", b"/_ab/events/click?experiment="]
)


@given(
    st.builds(lambda head, tail: head + tail, paths, st.binary(max_size=64)),
    st.dictionaries(
        st.sampled_from([":authority", "x-user-id", "cookie", "x-user-group", "x-user-segment", "origin"]),
        st.lists(st.binary(max_size=64) | st.just(b"llm-session=a"), min_size=1, max_size=3),
    ),
)
def test_whatever_a_client_sends_an_event_gets_no_cookie_and_only_names_from_the_document(
    target: bytes, headers: dict[str, list[bytes]]
) -> None:
    assigned = USUAL.assign({":path": [target], **headers}, no_identity)
    assert assigned.set_cookie is None
    assert not assigned.continued
    assert assigned.experiment in ("", "chat-model")
    assert assigned.variant in ("", "model-a", "model-b")
    assert assigned.event in (None, "click", "thumbs_up", "purchase")
    assert assigned.reason in {*FEEDBACK, "unmatched"}
    assert (assigned.event is not None) is (assigned.reason == "event")
    assert assigned.value is None or 1000 <= assigned.value <= 500_000

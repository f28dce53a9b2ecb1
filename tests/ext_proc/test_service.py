import logging
from collections.abc import Iterator
from itertools import count

import pytest
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import HttpBody, ProcessingRequest, ProtocolConfiguration
from hypothesis import given
from hypothesis import strategies as st

from ext_proc import wire
from ext_proc.service import END, Last, Service, StreamEnd, compile_rules, new_identity
from ext_proc.telemetry import Counts
from tests.ext_proc.samples import EVERY_KIND, document, headers_set, request_headers, response

SECOND = 10**9


class Clock:
    """Nanoseconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def service(*experiments: dict[str, object], clock: Clock | None = None) -> Service:
    made = Service(Counts(), identities=lambda: "feed", clock_ns=clock or Clock())
    made.rules = compile_rules(document(*experiments))
    return made


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service whose assignment fails on every request."""
    made = service()

    def fail(*_: object) -> Iterator[None]:
        raise RuntimeError("holds a client's secret")

    monkeypatch.setattr(wire.Answers, "write", fail)
    return made


def test_a_request_is_assigned_and_counted() -> None:
    made = service()
    answer = made.answer(request_headers([("x-user-id", b"u-1"), ("x-user-segment", b"power")]))
    set_ = headers_set(answer)
    assert set_["x-ab-experiment"] == "chat-model"
    assert set_["x-ab-segment"] == "power"
    assert made.counts.requests == {("chat-model", set_["x-model-version"], "header"): 1}
    assert made.counts.messages == {"request_headers": 1}
    assert sum(made.counts.durations) == 1


def test_an_issued_identity_keeps_its_client_on_its_variant() -> None:
    made = service()
    first = made.answer(request_headers())
    set_cookie = dict(response(first).dynamic_metadata["abmesh"])["set_cookie"]
    again = made.answer(request_headers([("cookie", set_cookie.split(";")[0].encode())]))
    assert headers_set(first) == {**headers_set(again), "x-ab-issued": "1"}
    assert "dynamic_metadata" not in [field.name for field, _ in response(again).ListFields()]


def test_events_are_counted_under_their_own_reasons() -> None:
    made = service({"events": ["click", {"name": "purchase", "value": {"max": 10}}]})
    user = [("x-user-id", b"u-1")]
    counted = headers_set(made.answer(request_headers(user, target=b"/_ab/events/purchase?value=9.99")))
    assert (counted["x-ab-event"], counted["x-ab-value"]) == ("purchase", "9990")
    for target in (b"/_ab/events/purchase?value=11", b"/_ab/events/click?experiment=no", b"/_ab/events/no"):
        made.answer(request_headers(user, target=target))
    made.answer(request_headers(target=b"/_ab/events/click"))
    variant = counted["x-model-version"]
    assert made.counts.requests == {
        ("chat-model", variant, "event"): 1,
        ("chat-model", variant, "event_wrong_value"): 1,
        ("chat-model", "", "event_unmatched"): 1,
        ("", "", "unmatched"): 1,
        ("chat-model", "", "event_no_unit"): 1,
    }


def test_events_that_clients_invent_add_no_metrics() -> None:
    made = service({"events": ["click", "continuation"]})
    for number in range(300):
        odd = b"%d" % number
        pairs = [("x-user-id", odd), ("x-user-segment", odd), ("cookie", b"llm-session=" + odd)]
        made.answer(request_headers(pairs, target=b"/_ab/events/" + odd))
        made.answer(request_headers(pairs, target=b"/_ab/events/click?value=%b&experiment=%b" % (odd, odd)))
        made.answer(request_headers(pairs, target=b"/_ab/events/click?value=" + odd))
    assert {key[0] for key in made.counts.requests} == {"", "chat-model"}
    assert {key[2] for key in made.counts.requests} == {"unmatched", "event_unmatched", "event_wrong_value"}


def test_identities_are_128_random_bits() -> None:
    made = {new_identity() for _ in range(100)}
    assert len(made) == 100
    assert all(len(bytes.fromhex(one)) == 16 for one in made)


def test_unmatched_requests_pass_untouched() -> None:
    made = service()
    assert headers_set(made.answer(request_headers(target=b"/other"))) == {"x-ab-reason": "unmatched"}
    assert made.counts.requests == {("", "", "unmatched"): 1}


def test_before_there_is_a_document_requests_pass_untouched() -> None:
    made = Service(Counts())
    assert headers_set(made.answer(request_headers([("x-user-id", b"u")]))) == {"x-ab-reason": "no_config"}
    assert made.counts.requests == {("", "", "no_config"): 1}


@pytest.mark.parametrize("kind", [kind for kind in EVERY_KIND if kind != "request_headers"])
def test_every_other_kind_gets_the_answer_that_changes_nothing(kind: str) -> None:
    made = service()
    assert made.answer(EVERY_KIND[kind].SerializeToString()) == wire.UNTOUCHED[kind]
    assert made.counts.messages == {kind: 1}
    assert not made.counts.requests
    assert not made.counts.errors


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_observability_mode_gets_no_answer(kind: str) -> None:
    made = service()
    message = ProcessingRequest()
    message.CopyFrom(EVERY_KIND[kind])
    message.observability_mode = True
    assert made.answer(message.SerializeToString()) is None
    assert made.counts.messages == {kind: 1}
    assert not made.counts.requests


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"\xff", "undecodable"),
        (b"", "unknown"),
        (
            request_headers(
                protocol_config=ProtocolConfiguration(request_body_mode=ProcessingMode.FULL_DUPLEX_STREAMED)
            ),
            "unsupported",
        ),
    ],
)
def test_what_cannot_be_answered_ends_the_stream_and_is_counted(message: bytes, kind: str) -> None:
    made = service()
    assert made.answer(message) is END
    assert made.counts.messages == made.counts.errors == {kind: 1}


def test_the_answer_to_an_envoy_that_sends_no_bodies_is_the_last_one() -> None:
    pair = [("x-user-id", b"u")]
    usual = service().answer(request_headers(pair))
    assert isinstance(usual, bytes)
    assert service().answer(request_headers(pair, protocol_config=ProtocolConfiguration())) == Last(usual)
    elsewhere = request_headers(target=b"/elsewhere", protocol_config=ProtocolConfiguration())
    last = service().answer(elsewhere)
    assert isinstance(last, Last)
    assert headers_set(last.answer) == {"x-ab-reason": "unmatched"}


def test_a_bug_of_ours_lets_the_request_pass(broken: Service, caplog: pytest.LogCaptureFixture) -> None:
    assert broken.answer(request_headers([("x-user-id", b"u")])) == wire.UNTOUCHED["request_headers"]
    assert broken.counts.errors == {"internal": 1}
    assert "RuntimeError at test_service.py" in caplog.text
    assert "secret" not in caplog.text


def test_errors_of_a_kind_are_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    made = service(clock=clock)
    for _ in range(50):
        made.answer(b"\xff")
    assert len(caplog.records) == 1
    made.answer(b"")
    assert len(caplog.records) == 2  # another kind
    clock.ns = 11 * SECOND
    made.answer(b"\xff")
    assert len(caplog.records) == 3
    assert "49 more" in caplog.records[2].getMessage()
    assert made.counts.errors["undecodable"] == 51


def test_nothing_is_logged_for_a_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service().answer(request_headers([("cookie", b"a=b")]))
    assert not caplog.records


def test_processing_time_is_measured_from_message_to_answer() -> None:
    ticks = count(step=20_000)
    made = Service(Counts(), clock_ns=lambda: next(ticks))
    made.answer(request_headers())
    assert made.counts.duration_ns == 20_000


headers = st.lists(
    st.tuples(
        st.sampled_from([":path", ":authority", "x-user-id", "cookie", "x-user-group", "x-user-segment", "other"]),
        st.binary(max_size=100),
    ),
    max_size=10,
)


targets = (
    st.binary(max_size=50)
    | st.just(b"/v1/?user_id=")
    | st.builds(
        lambda start, end: start + end, st.sampled_from([b"/_ab/events/", b"/_ab/events/paid?value="]), st.binary()
    )
)


@given(
    st.binary()
    | st.builds(request_headers, headers, target=targets)
    | st.binary().map(lambda body: ProcessingRequest(request_body=HttpBody(body=body)).SerializeToString())
)
def test_any_message_gets_an_answer_or_the_end_of_its_stream(message: bytes) -> None:
    made = service({"events": ["continuation", {"name": "paid", "value": {"max": 10}}]})
    answer = made.answer(message)
    assert isinstance(answer, bytes | StreamEnd) or answer is None
    if isinstance(answer, bytes):
        assert response(answer).WhichOneof("response") == wire.read(message, ()).kind
    assert "internal" not in made.counts.errors


def test_a_repeated_message_gets_the_same_answer_and_is_counted_again() -> None:
    made = service()
    message = request_headers([("x-user-id", b"u-1")])
    first = made.answer(message)
    assert made.answer(message) is first
    [counted] = made.counts.requests.values()
    assert counted == made.counts.messages["request_headers"] == sum(made.counts.durations) == 2


def test_cached_answers_are_dropped_with_their_document() -> None:
    made = service()
    message = request_headers([("x-user-id", b"u-1")])
    made.answer(message)
    made.rules = compile_rules(document({"name": "renamed"}))
    assert headers_set(made.answer(message))["x-ab-experiment"] == "renamed"


def test_every_request_without_an_identity_gets_one_of_its_own() -> None:
    fresh = count()
    made = Service(Counts(), identities=lambda: f"fresh-{next(fresh)}")
    made.rules = compile_rules(document())
    given = {bytes(wire_answer(made)) for _ in range(5)}
    assert len(given) == 5


def wire_answer(made: Service) -> bytes:
    answer = made.answer(request_headers())
    assert isinstance(answer, bytes)
    return answer


def test_ever_new_messages_do_not_make_the_server_grow() -> None:
    made = service()
    rules = made.rules
    assert rules is not None
    for number in range(20_000):
        made.answer(request_headers([("x-user-id", b"u-%d" % number)]))
    assert 8_192 <= len(rules.cached) <= 16_384
    before = len(rules.cached)
    made.answer(request_headers([("x-user-id", b"u" * 1_024)]))
    made.answer(b"\xff" * 10)
    made.answer(request_headers([("x-user-id", b"u-1")], observability_mode=True))
    assert len(rules.cached) == before


def test_the_routes_choice_decides_between_experiments_that_match_alike() -> None:
    """Two teams on two gateways may use the same host and path; what is remembered of one is not the other's."""
    teams: list[dict[str, object]] = [
        {"name": name, "match": {"path_prefix": "/v1/"}} for name in ("one", "two", "three")
    ]
    made = service(*teams)
    message = request_headers([("x-user-id", b"u-1")])
    for _ in range(2):
        for choice, expected in ((b"", "one"), (b"two", "two"), (b"three,two", "two"), (b"three", "three")):
            assert headers_set(made.answer(message, choice))["x-ab-experiment"] == expected
        assert "x-ab-experiment" not in headers_set(made.answer(message, b"unknown"))


def test_the_routes_choice_decides_whose_event_it_is() -> None:
    teams: list[dict[str, object]] = [{"name": name, "events": [{"name": "click"}]} for name in ("one", "two")]
    made = service(*teams)
    message = request_headers([("x-user-id", b"u-1"), (":method", b"POST")], target=b"/_ab/events/click")
    for choice, expected in ((b"", "one"), (b"two", "two")):
        assert headers_set(made.answer(message, choice))["x-ab-experiment"] == expected
    assert "x-ab-event" not in headers_set(made.answer(message, b"unknown"))

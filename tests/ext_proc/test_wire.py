import pytest
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    ProcessingRequest,
    ProtocolConfiguration,
)
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.places import place_of
from abmesh.mesh.refusals import REFUSALS
from ext_proc import wire
from ext_proc.core.assignment import FEEDBACK, Assignment, Reason
from tests.ext_proc.samples import EVERY_KIND, document, headers_set, request_headers, response

REFUSED = FEEDBACK - {"event"}
PLACED = Assignment("header", "chat-model", "model-a", 7, 1, "power")


def test_only_wanted_headers_are_read_and_repeated_ones_keep_their_order() -> None:
    message = request_headers([("x-user-id", b"\xff"), ("cookie", b"a"), ("x-secret", b"s"), ("cookie", b"b")])
    read = wire.read(message, {"x-user-id", "cookie", "x-absent"})
    assert (read.kind, read.headers) == ("request_headers", {"x-user-id": [b"\xff"], "cookie": [b"a", b"b"]})


def test_values_in_the_text_field_are_read_too() -> None:
    message = ProcessingRequest()
    message.request_headers.headers.headers.add(key="x-user-id", value="ü")
    assert wire.read(message.SerializeToString(), {"x-user-id"}).headers == {"x-user-id": ["ü".encode()]}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_is_recognised_and_has_its_own_answer(kind: str) -> None:
    assert wire.read(EVERY_KIND[kind].SerializeToString(), ()).kind == kind
    assert response(wire.UNTOUCHED[kind]).WhichOneof("response") == kind


def test_the_answer_that_changes_nothing_changes_nothing() -> None:
    for kind, answer in wire.UNTOUCHED.items():
        part = getattr(response(answer), kind)
        mutation = part.header_mutation if kind.endswith("trailers") else part.response.header_mutation
        assert not mutation.set_headers
        assert not mutation.remove_headers


def test_an_empty_message_and_a_kind_of_the_future_are_unknown() -> None:
    assert wire.read(b"", ()).kind == "unknown"
    assert wire.read(b"\xa2\x06\x02\x0a\x00", ()).kind == "unknown"  # field 100, a message


@pytest.mark.parametrize("message", [b"\xff", b"\x12\x05", b"\x12\x04\x0a\x02\x0a\x05", b"not protobuf"])
def test_bytes_that_are_not_a_message_are_undecodable(message: bytes) -> None:
    assert wire.read(message, ()).kind == "undecodable"


def test_a_header_name_that_is_not_text_makes_a_message_undecodable() -> None:
    message = request_headers([("x-user-id", b"u")]).replace(b"x-user-id", b"x-user-i\xff")
    assert wire.read(message, ()).kind == "undecodable"


@pytest.mark.parametrize("mode", [ProcessingMode.FULL_DUPLEX_STREAMED, ProcessingMode.GRPC])
@pytest.mark.parametrize("field", ["request_body_mode", "response_body_mode"])
def test_body_modes_whose_answers_carry_the_body_are_unsupported(mode: int, field: str) -> None:
    message = request_headers(protocol_config=ProtocolConfiguration(**{field: mode}))
    assert wire.read(message, ()).kind == "unsupported"


@pytest.mark.parametrize("mode", [ProcessingMode.NONE, ProcessingMode.STREAMED, ProcessingMode.BUFFERED])
def test_other_body_modes_are_served(mode: int) -> None:
    message = request_headers(protocol_config=ProtocolConfiguration(request_body_mode=mode))
    assert wire.read(message, ()).kind == "request_headers"


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_only_request_headers_of_an_envoy_that_sends_no_bodies_decide(kind: str) -> None:
    message = ProcessingRequest()
    message.CopyFrom(EVERY_KIND[kind])
    assert not wire.read(message.SerializeToString(), ()).decides
    message.protocol_config.SetInParent()
    assert wire.read(message.SerializeToString(), ()).decides is (kind == "request_headers")
    message.protocol_config.response_body_mode = ProcessingMode.STREAMED
    assert not wire.read(message.SerializeToString(), ()).decides


def test_observability_mode_expects_no_answer() -> None:
    assert not wire.read(request_headers(observability_mode=True), ()).expects_answer
    assert wire.read(request_headers(), ()).expects_answer


def test_an_answer_sets_every_header_that_applies() -> None:
    assert headers_set(wire.Answers(document()).write(PLACED)) == {
        "x-model-version": "model-a",
        "x-ab-experiment": "chat-model",
        "x-ab-slice": "7",
        "x-ab-group": "1",
        "x-ab-segment": "power",
        "x-ab-place": str(place_of("chat-model", "model-a")),
        "x-ab-reason": "assigned",
        "x-envoy-upstream-rq-timeout-ms": "30000",
    }


def test_an_answer_sets_no_header_that_does_not_apply() -> None:
    forced = Assignment("override", "chat-model", "model-b")
    expected = {"x-model-version": "model-b", "x-ab-experiment": "chat-model", "x-ab-reason": "assigned"}
    expected["x-ab-place"] = str(place_of("chat-model", "model-b"))
    assert headers_set(wire.Answers(document()).write(forced)) == expected


def test_slice_0_is_a_slice() -> None:
    first = PLACED._replace(slice=0, group=0)
    assert headers_set(wire.Answers(document()).write(first))["x-ab-slice"] == "0"


def test_headers_overwrite_what_is_there_and_the_route_is_chosen_again() -> None:
    common = response(wire.Answers(document()).write(PLACED)).request_headers.response
    overwrite = HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    assert {option.append_action for option in common.header_mutation.set_headers} == {overwrite}
    assert not any(option.header.value for option in common.header_mutation.set_headers)
    assert common.clear_route_cache


def test_an_issued_cookie_is_sent_as_dynamic_metadata_next_to_the_headers() -> None:
    answers = wire.Answers(document())
    issued = response(answers.write(PLACED._replace(reason="issued", set_cookie="sid=1; Path=/")))
    assert dict(issued.dynamic_metadata["abmesh"]) == {"set_cookie": "sid=1; Path=/"}


def test_an_answer_that_issues_an_identity_adds_a_header_to_the_usual_ones() -> None:
    answers = wire.Answers(document())
    usual = headers_set(answers.write(PLACED))
    issued = PLACED._replace(reason="issued", set_cookie="sid=1")
    assert headers_set(answers.write(issued)) == {**usual, "x-ab-issued": "1"}
    assert response(answers.write(issued)).request_headers.response.clear_route_cache


def test_a_continuation_is_reported_by_a_header_and_a_cookie() -> None:
    answers = wire.Answers(document())
    continued = answers.write(PLACED._replace(reason="cookie", set_cookie="sid-continued=1", continued=True))
    assert headers_set(continued) == {**headers_set(answers.write(PLACED)), "x-ab-continued": "1"}
    assert dict(response(continued).dynamic_metadata["abmesh"]) == {"set_cookie": "sid-continued=1"}


def test_an_event_is_marked_as_part_of_its_session_and_other_requests_are_not() -> None:
    answers = wire.Answers(document())
    event = PLACED._replace(reason="event", event="click", value=7)
    said = headers_set(answers.write(event))
    assert headers_set(answers.write(event._replace(in_session=True))) == {**said, "x-ab-issued": "1"}
    assert answers.write(PLACED._replace(in_session=True)) is answers.write(PLACED)


@pytest.mark.parametrize(("value", "said"), [(None, {}), (0, {"x-ab-value": "0"}), (12_500, {"x-ab-value": "12500"})])
def test_an_event_that_may_be_counted_is_named_next_to_the_usual_headers(
    value: int | None, said: dict[str, str]
) -> None:
    answers = wire.Answers(document())
    event = answers.write(PLACED._replace(reason="event", event="click", value=value))
    assert headers_set(event) == {**headers_set(answers.write(PLACED)), "x-ab-event": "click", **said}
    common = response(event).request_headers.response
    overwrite = HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    assert {option.append_action for option in common.header_mutation.set_headers} == {overwrite}
    assert common.clear_route_cache


@pytest.mark.parametrize("reason", sorted(REFUSED))
def test_an_event_that_does_not_count_gets_only_its_experiment_and_the_reason(reason: Reason) -> None:
    event = PLACED._replace(reason=reason) if reason == "event_wrong_value" else Assignment(reason, "chat-model")
    told = wire.Answers(document()).write(event)
    assert headers_set(told) == {"x-ab-experiment": "chat-model", "x-ab-reason": reason}
    assert response(told).request_headers.response.clear_route_cache


def test_envoy_has_a_sentence_for_every_cause() -> None:
    assert {reason.removeprefix("event_") for reason in REFUSED} == REFUSALS.keys()


def test_answers_are_built_once() -> None:
    answers = wire.Answers(document())
    assert answers.write(PLACED) is answers.write(PLACED._replace(reason="cookie"))
    assert answers.write(PLACED) != answers.write(PLACED._replace(segment="casual"))


def test_cached_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MOST_ANSWERS", 3)
    answers = wire.Answers(document())
    written = [headers_set(answers.write(PLACED._replace(slice=index)))["x-ab-slice"] for index in range(10)]
    assert written == [str(index) for index in range(10)]
    assert len(answers._built) <= 3


@pytest.mark.parametrize("reason", ["unmatched", "no_unit"])
def test_a_request_without_a_variant_is_told_the_reason_and_nothing_else(reason: str) -> None:
    told = wire.Answers(document()).write(Assignment(reason, "chat-model"))  # type: ignore[arg-type]  # the two literals
    assert headers_set(told) == {"x-ab-reason": reason}


@given(st.binary() | st.builds(lambda head, tail: head + tail, st.just(request_headers()), st.binary(max_size=40)))
def test_any_bytes_have_a_kind(message: bytes) -> None:
    read = wire.read(message, {":path"})
    assert read.kind in wire.UNTOUCHED or read.kind in wire.ENDS_STREAM


@given(st.lists(st.tuples(st.sampled_from(["x-user-id", "cookie", ":path"]), st.binary(max_size=100)), max_size=8))
def test_any_header_values_come_through(pairs: list[tuple[str, bytes]]) -> None:
    message = ProcessingRequest()
    for name, value in pairs:
        message.request_headers.headers.headers.add(key=name, raw_value=value)
    read = wire.read(message.SerializeToString(), {"x-user-id", "cookie", ":path"})
    if pairs:
        expected: dict[str, list[bytes]] = {}
        for name, value in pairs:
            expected.setdefault(name, []).append(value)
        assert read.headers == expected

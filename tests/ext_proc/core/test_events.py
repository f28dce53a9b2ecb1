import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.answers import Event
from ext_proc.core import events
from ext_proc.core.events import NO_VALUE, WRONG_VALUE, CheckedValue, EventQuery
from tests.ext_proc.samples import document


def declared(lowest: float, highest: float) -> events.DeclaredEvent:
    experiment = document({"events": [{"name": "purchase", "value": {"min": lowest, "max": highest}}]}).experiments[0]
    return events.compile_events(experiment)[b"purchase"]


def test_the_events_of_an_experiment_are_those_that_clients_may_send() -> None:
    experiment = document({"events": ["click", "continuation", {"name": "purchase", "value": {"max": 9.5}}]})
    assert events.compile_events(experiment.experiments[0]) == {
        b"click": events.DeclaredEvent("click", None),
        b"purchase": events.DeclaredEvent("purchase", events.ValueRange(0, 9500)),
    }


@pytest.mark.parametrize(
    ("target", "value", "experiment"),
    [
        (b"/_ab/events/click", None, None),
        (b"/_ab/events/click?", None, None),
        (b"/_ab/events/click?value=1.5", b"1.5", None),
        (b"/_ab/events/click?experiment=chat&value=1", b"1", b"chat"),
        (b"/_ab/events/click?value=%31%2E5", b"1.5", None),
        (b"/_ab/events/click?value=+1", b" 1", None),
        (b"/_ab/events/click?value=1&value=2&experiment=a&experiment=b", b"1", b"a"),
        (b"/_ab/events/click?value=&value=2", b"", None),
        (b"/_ab/events/click?value&value=2", b"", None),
        (b"/_ab/events/click?value", b"", None),
        (b"/_ab/events/click?value=1=2", b"1=2", None),
        (b"/_ab/events/click?value=%zz%", b"%zz%", None),
        (b"/_ab/events/click?values=1&xvalue=2&Value=3", None, None),
        (b"/_ab/events/click?a?value=1", None, None),
        (b"/_ab/events/click?val%75e=1", None, None),
        (b"/_ab/events/click?value\n=1", None, None),
        (b"/_ab/events/click#?value=1", None, None),
        (b"/_ab/events/click?value=1#&experiment=x", b"1", None),
        (b"", None, None),
    ],
)
def test_the_query_carries_value_and_experiment(target: bytes, value: bytes | None, experiment: bytes | None) -> None:
    assert events.read_query(target) == EventQuery(value, experiment)


parameters = st.lists(st.tuples(st.sampled_from(["value", "experiment", "other", "values"]), st.text()), max_size=6)


@given(parameters)
def test_in_any_valid_query_the_first_parameter_of_a_name_counts(pairs: list[tuple[str, str]]) -> None:
    encodable = [(name, text) for name, text in pairs if text.encode(errors="ignore").decode() == text]
    query = "&".join(f"{name}={quote_plus(text)}" for name, text in encodable)
    first = {name: text.encode() for name, text in reversed(encodable)}
    asked = events.read_query(b"/_ab/events/click?" + query.encode())
    assert asked == EventQuery(first.get("value"), first.get("experiment"))


@given(st.binary(max_size=200))
def test_no_query_raises(query: bytes) -> None:
    value, experiment = events.read_query(b"/_ab/events/click?" + query)
    assert value is None or isinstance(value, bytes)
    assert experiment is None or isinstance(experiment, bytes)


@pytest.mark.parametrize(
    "part", [b"&", b"value", b"value&", b"&valu", b"value=", b"=", b"%", b"%3", b"experiment&", b"+"]
)
def test_reading_a_huge_query_takes_linear_time(part: bytes) -> None:
    started = time.perf_counter()
    asked = events.read_query(b"/_ab/events/click?" + part * (1_000_000 // len(part)))
    declared(0, 100).check(asked.value)
    assert time.perf_counter() - started < 2  # quadratic would be minutes


@pytest.mark.parametrize(
    ("text", "thousandths"),
    [
        (b"0", 0),
        (b"12.5", 12_500),
        (b"12.05", 12_050),
        (b"0.001", 1),
        (b"000000000007", 7000),
        (b"100", 100_000),
        (b"100.000", 100_000),
    ],
)
def test_a_value_is_read_in_thousandths(text: bytes, thousandths: int) -> None:
    assert declared(0, 100).check(text) == CheckedValue(True, thousandths)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"-1",
        b"+1",
        b" 1",
        b"1 ",
        b"1\n",
        b"1.",
        b".5",
        b"1.2345",
        b"1,5",
        b"1e1",
        b"0x1",
        b"1_0",
        b"NaN",
        b"inf",
        b"0000000000001",
        b"100.001",
        b"999999999999.999",
        b"\xd9\xa1",  # an Arabic digit
        b"\xff",
    ],
)
def test_a_malformed_value_or_one_out_of_bounds_is_wrong(text: bytes) -> None:
    assert declared(0, 100).check(text) == WRONG_VALUE


def test_an_event_that_carries_no_value_may_have_none() -> None:
    click = events.DeclaredEvent("click", None)
    assert click.check(None) == NO_VALUE
    assert click.check(b"1") == click.check(b"") == WRONG_VALUE


def test_an_event_that_carries_a_value_may_come_without() -> None:
    assert declared(5, 10).check(None) == NO_VALUE


thousandths = st.integers(0, 10**9)


@given(thousandths, thousandths, thousandths)
def test_bounds_are_the_decimals_that_the_document_writes_both_included(one: int, other: int, value: int) -> None:
    lowest, highest = sorted((min(one, 10**9 - 1), other))
    if lowest == highest:
        highest += 1
    event = declared(float(f"{lowest / 1000:.3f}"), float(f"{highest / 1000:.3f}"))
    for number in (lowest, highest, value, lowest - 1, highest + 1):
        if number < 0:
            continue
        text = b"%d.%03d" % divmod(number, 1000)
        expected = CheckedValue(True, number) if lowest <= number <= highest else WRONG_VALUE
        assert event.check(text) == expected


@given(st.binary() | st.text().map(lambda text: quote(text, errors="ignore").encode()))
def test_no_value_raises(text: bytes) -> None:
    reading = declared(0, 100).check(text)
    assert reading.allowed is (reading.thousandths is not None)


def test_bounds_between_two_thousandths_are_rounded_inwards() -> None:
    event = Event.model_validate({"name": "purchase", "value": {"min": 0.0015, "max": 0.0035}})
    experiment = document({"events": [event.model_dump()]}).experiments[0]
    assert events.compile_events(experiment)[b"purchase"].values == events.ValueRange(2, 3)

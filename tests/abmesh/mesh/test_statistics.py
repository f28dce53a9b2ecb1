import re
from typing import Any

import pytest
from betterproto2 import Casing

from abmesh.experiment import metrics
from abmesh.experiment.model import Document
from abmesh.mesh.measured import kinds_of
from abmesh.mesh.statistics import loggers
from tests.abmesh.mesh.documents import document, experiment, values_of

EVENTS = ["click", {"name": "purchase", "value": {"max": 10}}, "continuation"]
COOKIE: dict[str, Any] = {"unit": [{"cookie": "sid"}], "issue_cookie": {"name": "sid", "max_age": "1h"}}
FULL = document(
    experiment(
        **COOKIE,
        events=EVENTS,
        segments={"header": "x-segment", "values": ["power"]},
    ),
    experiment("plain"),
)
WHO = ["experiment", "variant", "slice"]
GROUP = ["experiment", "variant", "group"]
SEGMENT = ["experiment", "variant", "segment", "group"]
ALWAYS = {
    "unassigned": ["route", "reason", "code"],
    "requests": [*WHO, "code"],
    **dict.fromkeys(
        ("duration_ms", "cached", "ttft_ms", "first_tokens", "input_tokens", "output_tokens", "usage"), WHO
    ),
    **dict.fromkeys(
        ("streamed_tokens", "generation_ms", "streams", "refusals", "broken", "left", "failed", "failed_ms"), WHO
    ),
    "duration": GROUP,
    "failed_duration": GROUP,
    "ttft": GROUP,
}
OF_USERS = {
    "sessions": WHO,
    **{name: [*WHO, "event"] for name in ("events", "session_events", "event_value", "valued_events")},
}
BY_SEGMENT = {
    "requests_by_segment": [*SEGMENT, "code"],
    "events_by_segment": [*SEGMENT, "event"],
    **dict.fromkeys(
        (f"{name}_by_segment" for name in ("input_tokens", "output_tokens", "usage", "broken", "left")), SEGMENT
    ),
    **dict.fromkeys((f"{name}_by_segment" for name in ("duration", "failed_duration", "ttft")), SEGMENT),
}


def rendered(of: Document) -> list[dict[str, Any]]:
    return [logger.to_dict(casing=Casing.SNAKE) for logger in loggers(kinds_of(of))]


def stats_of(logger: dict[str, Any]) -> list[dict[str, Any]]:
    config = logger["typed_config"]
    return [*config.get("counters", ()), *config.get("histograms", ())]


def shapes(of: Document) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for logger in rendered(of):
        assert logger["typed_config"]["stats_scope"] == {"prefix": "abmesh"}
        for stat in stats_of(logger):
            tags = [tag["name"] for tag in stat["stat"]["tags"]]
            assert found.setdefault(stat["stat"]["name"], tags) == tags
    return found


def test_statistics_have_the_names_and_tags_of_the_architecture() -> None:
    assert shapes(FULL) == ALWAYS | OF_USERS | BY_SEGMENT


def test_every_counter_by_slice_is_read_by_the_controller() -> None:
    made = [name for name, tags in shapes(FULL).items() if tags[:3] == WHO and name != "requests"]
    assert sorted(made) == sorted((*metrics.PLAIN_COUNTERS, *metrics.EVENT_COUNTERS))


@pytest.mark.parametrize(
    ("changes", "further"),
    [
        ({}, set()),
        ({"segments": {"header": "x-segment", "values": ["power"]}}, {"requests_by_segment", "ttft_by_segment"}),
        ({"events": ["click"]}, {"events"}),
        ({"events": ["click"], **COOKIE}, {"events", "session_events", "sessions"}),
        ({"events": ["continuation"], **COOKIE}, {"events", "session_events", "sessions"}),
        ({"events": [EVENTS[1]]}, {"events", "event_value", "valued_events"}),
        (COOKIE, {"sessions"}),
    ],
    ids=[
        "nothing",
        "segments",
        "an event",
        "an event of sessions",
        "continuation",
        "an event with a value",
        "sessions",
    ],
)
def test_only_what_the_document_can_fill_is_counted(changes: dict[str, Any], further: set[str]) -> None:
    found = set(shapes(document(experiment(**changes)))) - set(ALWAYS)
    assert further <= found
    assert bool(found) == bool(further)
    assert ("session_events" in found) == ("session_events" in further)


def test_no_tag_takes_a_value_that_a_client_can_choose() -> None:
    trusted = re.compile(r"%REQ\((x-model-version|x-ab-[a-z]+)\)%|%RESPONSE_CODE%")
    values = {value for logger in rendered(FULL) for value in values_of(logger, "tags") for value in _formats(value)}
    assert {value for value in values if not trusted.fullmatch(value)} == {"continuation"}
    assert "%REQ(x-ab-counted)%" in values
    assert "%REQ(x-ab-event)%" not in values, "the route names the event"


def _formats(tags: list[dict[str, Any]]) -> list[str]:
    return [tag["value_format"] for tag in tags]


def conditions(tree: Any) -> set[str]:
    """What a logger asks for: headers and keys of metadata."""
    found = {matcher["name"] for matcher in values_of(tree, "header") if not matcher.get("invert_match")}
    return found | {matcher["path"][0]["key"] for matcher in values_of(tree, "matcher")}


MARKS = {"x-ab-route", "x-ab-counted"}
OF_AN_ANSWER = {"answered", "cached", "output_tokens", "streamed_tokens", "refused"}


def test_evidence_has_a_slice_and_a_mark_of_envoys() -> None:
    """Whatever the server said of it. Answers are read at variants' places alone, so what they say shows the place."""
    for logger in rendered(FULL):
        asked = conditions(logger["filter"])
        if stats_of(logger)[0]["stat"]["name"] == "unassigned":
            assert asked == {"x-ab-unassigned"}
            continue
        assert "x-ab-slice" in asked or "x-ab-segment" in asked
        assert asked & (MARKS | OF_AN_ANSWER)


def test_no_logger_evaluates_an_expression() -> None:
    """One costs more than ten looks at a header."""
    assert not [logger for logger in rendered(FULL) if list(values_of(logger, "extension_filter"))]


def test_every_value_is_known_to_be_there_before_it_is_added_up() -> None:
    """Or Envoy logs an error for each request without it."""
    needed = {
        "%DURATION%": {"x-ab-slice"},
        "%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:ms)%": {"answered"},
        "%COMMON_DURATION(US_RX_BODY_BEG:DS_TX_END:ms)%": {"streamed_tokens"},
        "%DYNAMIC_METADATA(abmesh:input_tokens)%": {"output_tokens"},
        "%DYNAMIC_METADATA(abmesh:output_tokens)%": {"output_tokens"},
        "%DYNAMIC_METADATA(abmesh:streamed_tokens)%": {"streamed_tokens"},
        "%REQ(x-ab-value)%": {"x-ab-value"},
    }
    for logger in rendered(FULL):
        for stat in stats_of(logger):
            if "value_format" in stat:
                assert needed[stat["value_format"]] <= conditions(logger["filter"])


def test_no_request_is_counted_twice_as_from_a_cache_and_not() -> None:
    found = [logger for logger in rendered(FULL) if stats_of(logger)[0]["stat"]["name"] == "requests"]
    answers = [list(values_of(logger["filter"], "metadata_filter")) for logger in found]
    fresh, cached = (
        next(item for item in asked if item["matcher"]["path"] == [{"key": "cached"}]) for asked in answers
    )
    assert (fresh["matcher"]["value"], fresh["match_if_key_not_found"]) == ({"null_match": {}}, True)
    assert (cached["matcher"]["value"], cached["match_if_key_not_found"]) == ({"present_match": True}, False)

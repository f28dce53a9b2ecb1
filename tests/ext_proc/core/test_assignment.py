from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment import bucketing
from abmesh.experiment.model import Document
from ext_proc.core.assignment import Assignment
from ext_proc.core.headers import host_of
from ext_proc.core.table import Table, compile_document
from tests.ext_proc.samples import EXPERIMENT, document

SALT = "chat-model-2026-11"


def no_identity() -> str:
    raise AssertionError("no identity is needed")


def assign(
    table: Table, new_identity: Callable[[], str] = no_identity, target: bytes = b"/v1/chat", **headers: bytes
) -> Assignment:
    named = {name.replace("_", "-"): [value] for name, value in headers.items()}
    return table.assign({":path": [target], ":authority": [b"api.example.com"], **named}, new_identity)


USUAL = compile_document(document())


@given(st.binary(min_size=1).filter(lambda unit: unit.strip(b" \t") == unit))
def test_a_unit_gets_the_place_of_its_bucket(unit: bytes) -> None:
    place = document().experiments[0].cells[bucketing.bucket_of(SALT, unit)]
    expected = Assignment("header", "chat-model", place.variant, place.slice, place.group, "other")
    assert assign(USUAL, x_user_id=unit) == expected


weights = st.lists(st.integers(0, 10_000), min_size=1, max_size=5).map(
    lambda cuts: [b - a for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 10_000], strict=True)]
)


@given(weights, st.integers(10, 100))
def test_the_compiled_runs_hold_the_place_of_every_bucket(weights: list[int], slices: int) -> None:
    variants = [
        {"name": f"v{index}", "cluster": "c", "weight": weight / 100, "control": index == 0}
        for index, weight in enumerate(weights)
    ]
    parsed = document({"variants": variants, "slices": slices, "overrides": ()})
    compiled = compile_document(parsed).experiments[0]
    spread = [
        place
        for start, stop, place in zip(compiled.starts, (*compiled.starts[1:], 10_000), compiled.cells, strict=True)
        for _ in range(start, stop)
    ]
    assert tuple(spread) == parsed.experiments[0].cells


def test_the_reason_names_where_the_unit_was_found() -> None:
    assert assign(USUAL, x_user_id=b"u").reason == "header"
    assert assign(USUAL, cookie=b"llm-session=u").reason == "cookie"
    assert assign(USUAL, target=b"/v1/?user_id=u").reason == "query"


def test_the_same_unit_gets_the_same_place_wherever_it_was_found() -> None:
    found = [
        assign(USUAL, x_user_id=b"u-7"),
        assign(USUAL, cookie=b"llm-session=u-7"),
        assign(USUAL, target=b"/v1/?user_id=u%2D7"),
    ]
    assert len({one._replace(reason="header", in_session=False) for one in found}) == 1


def test_a_request_without_a_unit_is_issued_one_and_placed_by_it() -> None:
    issued = assign(USUAL, lambda: "feed", x_forwarded_proto=b"https")
    assert issued.set_cookie == "llm-session=feed; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"
    later = assign(USUAL, cookie=b"llm-session=feed")
    assert issued._replace(reason="cookie", set_cookie=None) == later


def test_without_an_issued_cookie_a_request_without_a_unit_passes_untouched() -> None:
    table = compile_document(document({"issue_cookie": None}))
    assert assign(table) == Assignment("no_unit", "chat-model")


def test_an_override_decides_before_the_unit_and_is_not_evidence() -> None:
    forced = assign(USUAL, x_user_group=b"beta-testers", x_user_id=b"u", x_user_segment=b"power")
    assert forced == Assignment("override", "chat-model", "model-b", segment="power")


def test_an_override_issues_no_cookie() -> None:
    assert assign(USUAL, x_user_group=b"beta-testers").set_cookie is None


@pytest.mark.parametrize("value", [b"Beta-testers", b"beta-testers2", b"", b"beta-testers,x"])
def test_an_override_needs_the_exact_value(value: bytes) -> None:
    assert assign(USUAL, x_user_group=value, x_user_id=b"u").reason == "header"


def test_the_first_override_whose_headers_all_match_decides() -> None:
    table = compile_document(
        document(
            {
                "overrides": [
                    {"header": {"x-a": "1", "x-b": "1"}, "variant": "model-a"},
                    {"header": {"x-a": "1"}, "variant": "model-b"},
                    {"header": {"x-b": "1"}, "variant": "model-a"},
                ]
            }
        )
    )
    assert assign(table, x_a=b"1", x_b=b"1").variant == "model-a"
    assert assign(table, x_a=b"1").variant == "model-b"
    assert assign(table, x_b=b"1").variant == "model-a"


@pytest.mark.parametrize(
    ("value", "segment"), [(b"power", "power"), (b"casual", "casual"), (b"Power", "other"), (b"\xff", "other")]
)
def test_a_segment_is_a_declared_value_or_other(value: bytes, segment: str) -> None:
    assert assign(USUAL, x_user_id=b"u", x_user_segment=value).segment == segment


def test_without_declared_segments_there_is_none() -> None:
    table = compile_document(document({"segments": None}))
    assert assign(table, x_user_id=b"u", x_user_segment=b"power").segment is None


@pytest.mark.parametrize(
    ("target", "matches"),
    [
        (b"/v1/", True),
        (b"/v1/chat?x=/v2/", True),
        (b"/v1", False),
        (b"/V1/", False),
        (b"/v2/?/v1/", False),
        (b"/v2/#/v1/", False),
        (b"", False),
        (b"*", False),
    ],
)
def test_a_path_matches_by_its_start(target: bytes, matches: bool) -> None:
    expected = "header" if matches else "unmatched"
    assert assign(USUAL, target=target, x_user_id=b"u").reason == expected


def test_a_request_without_a_path_passes_untouched() -> None:
    assert USUAL.assign({"x-user-id": [b"u"]}, no_identity) == Assignment("unmatched")


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        (b"api.example.com", b"api.example.com"),
        (b"API.example.com:8443", b"api.example.com"),
        (b"[::1]:80", b"[::1]"),
        (b"[::1]", b"[::1]"),
        (b":80", b""),
        (b"\xff:1", b"\xff"),
        (b"", b""),
    ],
)
def test_a_host_is_the_authority_without_its_port(authority: bytes, host: bytes) -> None:
    assert host_of({":authority": [authority]}) == host


def test_a_match_needs_its_host_and_all_its_headers() -> None:
    match = {"host": "API.example.com", "headers": {"X-Tenant": "acme", "x-tier": "gold"}}
    table = compile_document(document({"match": match}))
    good = {":path": [b"/"], ":authority": [b"api.EXAMPLE.com:1"], "x-tenant": [b"acme"], "x-tier": [b"gold"]}
    good["x-user-id"] = [b"u"]
    assert table.assign(good, no_identity).reason == "header"
    for wrong in (
        {":authority": [b"other.example.com"]},
        {"x-tenant": [b"ACME"]},
        {"x-tier": [b"gold", b"gold"]},
        {"x-tier": [b"silver"]},
    ):
        assert table.assign({**good, **wrong}, no_identity).reason == "unmatched"
    del good[":authority"]
    assert table.assign(good, no_identity).reason == "unmatched"


def test_repeated_headers_match_joined_with_commas() -> None:
    table = compile_document(document({"match": {"headers": {"x-tier": "gold,silver"}}}))
    headers = {":path": [b"/"], "x-user-id": [b"u"], "x-tier": [b"gold", b"silver"]}
    assert table.assign(headers, no_identity).reason == "header"


def test_the_first_experiment_that_matches_wins() -> None:
    table = compile_document(
        document(
            {"name": "one", "match": {"path_prefix": "/v1/a"}},
            {"name": "two", "match": {"path_prefix": "/v1/"}},
            {"name": "three", "match": {"path_prefix": "/v1/ab"}},
        )
    )
    assert assign(table, target=b"/v1/abc", x_user_id=b"u").experiment == "one"
    assert assign(table, target=b"/v1/b", x_user_id=b"u").experiment == "two"


def test_experiments_hash_with_their_own_salt_or_else_their_name() -> None:
    named = {key: value for key, value in EXPERIMENT.items() if key != "salt"}
    table = compile_document(Document.model_validate({"version": 1, "experiments": [{**named, "name": "named"}]}))
    place = document().experiments[0].cells[bucketing.bucket_of("named", b"u-1")]
    assert assign(table, x_user_id=b"u-1")[2:4] == (place.variant, place.slice)


@given(
    st.dictionaries(
        st.sampled_from([":path", ":authority", "x-user-id", "cookie", "x-user-group", "x-user-segment", ":scheme"]),
        st.lists(st.binary(max_size=64) | st.just(b"/v1/"), min_size=1, max_size=3),
    )
)
def test_nothing_that_a_client_sends_raises(headers: dict[str, list[bytes]]) -> None:
    assert isinstance(USUAL.assign(headers, lambda: "feed"), Assignment)

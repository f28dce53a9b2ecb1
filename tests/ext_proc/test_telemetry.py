import json

from hypothesis import given
from hypothesis import strategies as st

from ext_proc.telemetry import BUCKETS_US, Config, Counts, merge

names = st.sampled_from(["a", "b", ""])
totals = st.dictionaries(names, st.integers(0, 10**12))


def build(requests: dict[tuple[str, str, str], int], messages: dict[str, int], times: list[int]) -> Counts:
    counts = Counts(dict(requests), dict(messages), {"internal": 1})
    for nanoseconds in times:
        counts.duration(nanoseconds)
    return counts


any_counts = st.builds(
    build,
    st.dictionaries(st.tuples(names, names, names), st.integers(0, 10**12)),
    totals,
    st.lists(st.integers(0, 10**9), max_size=5),
)


def test_a_duration_falls_in_the_first_bucket_that_is_not_below_it() -> None:
    counts = Counts()
    for nanoseconds in (0, 10_000, 10_001, 50_000_000, 50_000_001, 10**12):
        counts.duration(nanoseconds)
    assert counts.durations == [2, 1, *[0] * (len(BUCKETS_US) - 3), 1, 2]
    assert counts.duration_ns == 10_000 + 10_001 + 50_000_000 + 50_000_001 + 10**12


def test_requests_messages_and_errors_add_up() -> None:
    counts = Counts()
    for _ in range(3):
        counts.request(("e", "v", "header"))
        counts.message("request_headers")
        counts.error("internal")
    assert counts.requests == {("e", "v", "header"): 3}
    assert counts.messages == {"request_headers": 3}
    assert counts.errors == {"internal": 3}


@given(any_counts)
def test_counts_survive_the_way_to_the_supervisor(counts: Counts) -> None:
    counts.config = Config(123, 4.5, 6, "no\nway")
    assert Counts.load(json.loads(json.dumps(counts.dump()))) == counts


@given(st.lists(any_counts, max_size=4), st.randoms())
def test_merging_adds_everything_up_in_any_order(parts: list[Counts], random: object) -> None:
    merged = merge(parts)
    assert sum(merged.durations) == sum(sum(part.durations) for part in parts)
    assert merged.duration_ns == sum(part.duration_ns for part in parts)
    for key in {key for part in parts for key in part.requests}:
        assert merged.requests[key] == sum(part.requests.get(key, 0) for part in parts)
    assert merged.errors.get("internal", 0) == len(parts)
    assert merge(list(reversed(parts))) == merged
    assert merge([], parts).requests == merged.requests


def test_the_merged_configuration_is_that_of_the_worker_furthest_behind() -> None:
    ahead = Counts(config=Config(generation=2, loaded_at=20.0, rejected=1))
    behind = Counts(config=Config(generation=1, loaded_at=10.0, rejected=3, error="refused"))
    starting = Counts()
    gone = Counts(config=Config(generation=9, loaded_at=1.0, rejected=5, error="long ago"))
    assert merge([ahead, behind, starting], [gone]).config == Config(1, 10.0, 5, "refused")
    assert merge([starting]).config == Config()


def test_merging_changes_none_of_its_parts() -> None:
    part = Counts({("e", "v", "header"): 1})
    merge([part, part])
    assert part == Counts({("e", "v", "header"): 1})


def test_a_configuration_is_valid_while_the_newest_edit_is_in_force() -> None:
    assert not Config().valid
    assert Config(generation=0).valid
    assert not Config(generation=1, error="refused").valid

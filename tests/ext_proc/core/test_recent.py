from hypothesis import given
from hypothesis import strategies as st

from ext_proc.core.recent import Recent

keys = st.lists(st.integers(0, 30), max_size=200)


@given(keys, st.integers(1, 8))
def test_recent_keys_are_kept_in_at_most_two_generations(used: list[int], room: int) -> None:
    recent = Recent[int, str](room)
    order: list[int] = []
    for key in used:
        known = recent.get(key)
        assert known in (None, f"value of {key}")
        if known is None:
            recent.put(key, f"value of {key}")
        order = [*(other for other in order if other != key), key]
        assert len(recent) <= 2 * room
        # The current generation, and what it is about to replace: at least `room` of the last ones.
        assert all(recent.get(other) for other in order[-room:])


def test_used_keys_outlive_unused_ones() -> None:
    recent = Recent[str, int](2)
    recent.put("kept", 1)
    for number in range(20):
        recent.put(f"passing {number}", 2)
        assert recent.get("kept") == 1
    assert recent.get("passing 0") is None


def test_a_value_can_be_replaced() -> None:
    recent = Recent[str, int](2)
    recent.put("key", 1)
    recent.put("key", 2)
    assert recent.get("key") == 2
    assert len(recent) == 1

"""Parsing by columns gives the same result as parsing line by line, for any answer."""

from __future__ import annotations

import gc
import gzip
import weakref

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from abmesh.experiment.errors import SourceError
from controller.evidence import columns
from controller.evidence.columns import Parser
from controller.evidence.digits import named_values
from controller.evidence.parse import Sample, parse
from tests.paths import ROOT

RECORDED = gzip.decompress((ROOT / "bench" / "recorded" / "answer.txt.gz").read_bytes())
AFTER = "  intervals=1,1:1\n  summary=P0(1,1)\n"


def _outcome(parser: Parser | None, text: bytes) -> Sample | str:
    try:
        return parser.parse(text) if parser else parse(text)
    except SourceError as error:
        return str(error)


def test_a_real_answer_is_parsed_the_same_the_first_time_and_later() -> None:
    parser = Parser()
    for _ in range(2):
        assert parser.parse(RECORDED) == parse(RECORDED)


def test_a_real_answer_takes_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: bytes) -> Sample:
        raise AssertionError("the slow way was taken")

    monkeypatch.setattr(columns, "parse", never)
    assert len(Parser().parse(RECORDED).experiments) == 10


COUNTS = st.integers(0, 120) | st.sampled_from([0, 99_999_999, 10**8, 10**15, 10**16 - 1, 10**16, 2**48, 2**64 - 1])
NAMES = st.builds(
    "abmesh.{}.experiment.{}.variant.{}.slice.{}{}".format,
    st.sampled_from(["requests", "duration_ms", "other"]),
    st.sampled_from(["e", "f-1"]),
    st.sampled_from("ab"),
    st.integers(0, 3),
    st.sampled_from(["", ".code.200", ".code.503"]),
)
COUNTERS = st.builds("{}: {}\n".format, NAMES | st.sampled_from(["server.uptime", "server.hot_restart_epoch"]), COUNTS)
BOUNDS = st.sampled_from(
    ["0,0", "1,0.1", "12,1", "98,1", "100,10", "11000,1000", "1.1e+06,100000", "99999999,12345678"]
)
BINS = st.builds("{}:{}".format, BOUNDS, COUNTS)
HISTOGRAMS = st.builds(
    ("abmesh.{}.experiment.{}.variant.{}.group.{}:\n  totals={}\n" + AFTER).format,
    st.sampled_from(["duration", "requests"]),
    st.sampled_from(["e", "f-1"]),
    st.sampled_from("ab"),
    st.integers(0, 2),
    st.lists(BINS, max_size=4).map(", ".join),
)
ANSWERS = st.lists(COUNTERS | HISTOGRAMS, max_size=8).map("".join)
STRANGE = st.sampled_from(
    [
        " ",
        ":",
        ": ",
        "\n",
        ",",
        ", ",
        "x",
        "\t",
        "\r",
        "\u0667",
        "9" * 20,
        "-1",
        "  totals=",
        "  summary=",
        "  intervals=",
        ":\n",
    ]
)


@given(st.lists(ANSWERS, min_size=1, max_size=3))
def test_every_answer_is_parsed_the_same_after_any_others(answers: list[str]) -> None:
    parser = Parser()
    for answer in [*answers, *answers]:
        assert _outcome(parser, answer.encode()) == _outcome(None, answer.encode())


@example("abmesh.duration.experiment.e.variant.a.group.0:\n  totals=\n  intervals=\n  summary=\n", [(0, 0, "\n")])
@given(ANSWERS, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 5), STRANGE), min_size=1, max_size=3))
def test_damaged_answers_give_the_same_result_or_error_as_parse(
    answer: str, damage: list[tuple[int, int, str]]
) -> None:
    parser = Parser()
    damaged = answer
    for place, removed, inserted in damage:
        damaged = damaged[:place] + inserted + damaged[place + removed :]
    for text in (damaged, answer, damaged):
        assert _outcome(parser, text.encode()) == _outcome(None, text.encode())


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_source_error(text: bytes) -> None:
    assert _outcome(Parser(), text) == _outcome(None, text)


@given(st.lists(st.integers(0, 10**16 - 1)))
def test_digits_become_numbers(numbers: list[int]) -> None:
    lines = b"\n".join(b"name.%d: %d" % item for item in enumerate(numbers))
    names, values = named_values(lines)
    assert values.tolist() == numbers
    assert names.tobytes().split() == [b"name.%d:" % place for place in range(len(numbers))]


def test_changing_lists_of_names_do_not_grow_the_cache_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MOST_LAYOUTS", 3)
    parser = Parser()
    known = [f"abmesh.requests.experiment.e{number % 3}.variant.v.slice.{number}.code.200" for number in range(12)]
    for turn in range(3):
        for first in range(12):
            names = [*known[first:], "server.uptime", *known[:turn]]
            text = "".join(f"{name}: {place + turn}\n" for place, name in enumerate(dict.fromkeys(names))).encode()
            assert parser.parse(text) == parse(text)


def test_changing_names_do_not_grow_the_cache_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MOST_NAMES", 100)
    monkeypatch.setattr(columns, "MOST_CELLS", 1000)
    parser = Parser()
    for number in range(50):
        text = "".join(
            f"abmesh.requests.experiment.e{number}.variant.v{other}.slice.1.code.200: {other}\n"
            f"abmesh.duration.experiment.e{number}.variant.v{other}.group.1:\n  totals={other},{number}:1\n{AFTER}"
            for other in range(20)
        ).encode()
        assert parser.parse(text) == parse(text)
        assert len(parser._owners) <= 140
        assert parser._cells.size <= 2000


def test_cleared_caches_are_freed_once_no_counts_need_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MOST_NAMES", 0)
    text = b"abmesh.requests.experiment.e.variant.v.slice.1.code.200: 1\n"
    parser = Parser()
    first = parser.parse(text)
    forgotten = weakref.ref(first.counts("e").counters.keys)
    second = parser.parse(text)
    assert second == first
    del first
    gc.collect()
    assert forgotten() is None

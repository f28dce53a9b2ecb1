"""``abmesh analyze``: files, standard input, a rollout's evidence, pictures, and one clear line for what is wrong."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.decision.history import History, PastStage
from controller.evidence.counts import BinKey, Counts, SegmentKey
from controller.evidence.summing import summarize
from controller.evidence.window import Window
from controller.records import ExperimentState, Phase, Stage
from controller.state.evidence import EvidenceStore, StageEvidence
from controller.state.states import StateStore
from tests.abmesh.cli.calls import call, refused
from tests.controller.support import DOCUMENT

RATES = "variant,n,sum\nold,10000,200\nnew,10000,300\n"
OVER_TIME = "variant,n,sum,time\n" + "".join(
    f"{name},{1000 * day},{rate * day},2026-11-{day:02}\n"
    for day in range(1, 11)
    for name, rate in (("old", 20), ("new", 30))
)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "results.csv"
    path.write_text(RATES)
    return path


def test_a_file_gives_a_table_that_says_what_each_interval_is_valid_for(csv: Path) -> None:
    called = call("analyze", str(csv), "--control=old", "--metric", "conversion", "--weights", "old=50,new=50")
    assert called.code == 0, called
    for words in ("conversion", "at any look", "for one look only", "+1 pp", "+50%", "higher", "as expected"):
        assert words in called.out


def test_json_has_the_same_numbers(csv: Path) -> None:
    record = json.loads(call("analyze", "--from", str(csv), "--control=new", "--alpha", "1%", "--json").out)
    assert (record["control"], record["alpha"]) == ("new", 0.01)
    (comparison,) = record["metrics"][0]["comparisons"]
    assert (comparison["variant"], comparison["result"]) == ("old", "lower")
    assert [analysis["valid"] for analysis in comparison["analyses"]] == ["at any look", "for one look only"]
    assert comparison["analyses"][0]["difference"]["value"] == pytest.approx(-0.01)


def test_markdown(csv: Path) -> None:
    assert "\n| variant | requests |" in call("analyze", str(csv), "--control=old", "--format", "markdown").out


def test_standard_input_is_a_file_as_well(csv: Path) -> None:
    piped = call("analyze", "-", "--control=old", "--json", stdin=RATES.encode())
    assert piped.code == 0
    assert (
        json.loads(piped.out)["metrics"]
        == json.loads(call("analyze", "--from", str(csv), "--control=old", "--json").out)["metrics"]
    )


def test_planned_looks_are_a_third_analysis(csv: Path) -> None:
    record = json.loads(call("analyze", str(csv), "--control=old", "--planned", "20000", "--looks", "4", "--json").out)
    planned = record["metrics"][0]["comparisons"][0]["analyses"][1]
    assert planned["valid"] == "at planned looks only"
    assert planned["note"].endswith("of 2.96")
    assert planned["p"] is None


@pytest.mark.parametrize("text", [RATES, OVER_TIME, RATES.replace("sum\n", "sum,segment\n").replace("0\n", "0,x\n")])
def test_a_picture_is_drawn_of_any_file(tmp_path: Path, csv: Path, text: str) -> None:
    csv.write_text(text)
    called = call("analyze", str(csv), "--control=old", "--plot", str(tmp_path / "p.svg"))
    assert called.code == 0, called
    svg = (tmp_path / "p.svg").read_text()
    assert ("<!-- time (UTC) -->" in svg) == (text == OVER_TIME)
    assert "no difference" in svg


UNITS = "who;arm;paid;kept;before\n" + "".join(
    f"u{number};{'Control' if number % 2 else 'new'};{number % 9 + number % 5};{number % 3 == 0};{number % 9}\n"
    for number in range(300)
)


def test_columns_are_mapped_and_a_covariate_and_a_cap_are_said(tmp_path: Path) -> None:
    path = tmp_path / "units.csv"
    path.write_text(UNITS)
    given = ("analyze", str(path), "--unit", "who", "--metric", "paid", "--metric", "kept", "--measured-in", "EUR")
    treated = json.loads(call(*given, "--covariate", "before", "--winsorise", "95%", "--weights", "even", "--json").out)
    plain = json.loads(call(*given, "--json").out)
    assert treated["control"] == plain["control"] == "Control"
    assert (
        [part["unit"] for part in plain["metrics"]] == [part["unit"] for part in treated["metrics"]] == ["EUR", "share"]
    )
    widths = [
        each["metrics"][0]["comparisons"][0]["analyses"][0]["difference"]["upper"]
        - each["metrics"][0]["comparisons"][0]["analyses"][0]["difference"]["lower"]
        for each in (treated, plain)
    ]
    assert widths[0] < 0.6 * widths[1]
    assert any("Control's 95% quantile" in note for note in treated["notes"])
    assert any("paid is adjusted by the covariate" in note for note in treated["notes"])
    assert (treated["split"][0]["counted"], treated["split"][0]["found"]) == ("who", {"new": 150, "Control": 150})


def test_a_picture_of_several_metrics_names_them(tmp_path: Path) -> None:
    given = ("analyze", "-", "--unit", "who", "--metric", "paid", "--metric", "kept")
    called = call(*given, "--plot", str(tmp_path / "p.svg"), stdin=UNITS.encode())
    assert called.code == 0, called
    assert "<!-- kept: new -->" in (tmp_path / "p.svg").read_text()


def test_a_stream_whose_n_falls_is_named_and_the_rest_reported(tmp_path: Path) -> None:
    path = tmp_path / "streams.csv"
    rows = "".join(
        f"{name},{1000 * day},{30 * day},{day},{segment}\n"
        for day in range(1, 4)
        for segment in ("x", "y")
        for name in ("control", "b")
    )
    path.write_text("variant,n,sum,time,segment\n" + rows + "b,2500,75,4,y\n")
    record = json.loads(call("analyze", str(path), "--json").out)
    (warning,) = record["warnings"]
    assert warning.startswith("segment y is left out: rows are cumulative, but n of b is 3000 on line 13 and 2500 on")
    assert [row["requests"] for row in record["metrics"][0]["variants"]] == [3000, 3000]


def test_bytes_that_are_no_utf_8_are_users_like_others_and_no_names(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(b"variant,user,n,sum\na,\xff\xfe,5,1\nb,u,5,2\n")
    assert call("analyze", str(path), "--control=a").code == 0
    path.write_bytes(b"variant,n,sum\n\xff,5,1\n")
    refused(call("analyze", "--from", str(path)), 1, "r.csv:2: variant: not a name; found \\udcff")


def test_endless_lines_and_folders_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(b"variant,n,sum" + b"," * 10**6)
    refused(call("analyze", "--from", str(path)), 1, "r.csv:1: the line is too long")
    refused(call("analyze", "--from", str(tmp_path)), 1, "Is a directory")
    refused(call("analyze", "--from", str(tmp_path / "none.csv")), 1, "none.csv: No such file")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "give the name of an experiment or a FILE.csv, or --from FILE"),
        (("chat", "--from", "-"), 2, "give the name"),
        (("--from", "-", "--alpha", "0"), 2, "--alpha '0' is not an error probability"),
        (("--from", "-", "--alpha", "nan"), 2, "--alpha"),
        (("--from", "-", "--alpha", "60%"), 2, "0.0001% to 50%"),
        (("--from", "-", "--weights", "old"), 2, "'old' is not VARIANT=PERCENT"),
        (("--from", "-", "--weights", "old=1,old=2"), 2, "'old' is named twice"),
        (("--from", "-", "--weights", "old=100"), 2, "at least 2 variants"),
        (("--from", "-", "--tuned-for", "0"), 2, "--tuned-for 0 is out of range; allowed: 1 to 10^12"),
        (("--from", "-", "--planned", "1"), 2, "--planned 1 is out of range"),
        (("--from", "-", "--planned", "100", "--looks", "51"), 2, "--looks 51 is out of range"),
        (("--from", "-", "--metric", "a\nb"), 2, "--metric"),
        (("--from", "-", "--measured-in", "x" * 21), 2, "--measured-in"),
        (("--from", "-", "--plot", "p.gif"), 2, "allowed: .png, .svg, .pdf"),
        (("chat", "--control", "a"), 2, "--control goes with a file; for an experiment the document sets it"),
        (("chat", "--weights", "a=1,b=2"), 2, "--weights goes with a file"),
        (("chat", "--by", "test"), 2, "--by goes with a file"),
        (("chat", "--metric", "a", "--metric", "b"), 2, "--metric of an experiment is the only metric to show"),
        (("-", "--winsorise", "100%"), 2, "--winsorise '100%' is no cap; allowed: a quantile of 50% or more"),
        (("-", "--winsorise", "much"), 2, "--winsorise 'much' is no cap"),
        (("-", "--winsorise", "nan"), 2, "--winsorise 'nan' is no cap"),
        (("-", "--control=old", "--winsorise", "99%"), 1, "sums have no cap; found variant, n, sum; allowed: --winsor"),
        (("-", "--experiment", "chat", "--control", "old"), 2, "give --control or --experiment, not both"),
        (("-", "--by", "variant", "--n", "n", "--metric", "sum", "--winsorise", "9"), 2, "--by goes without --plot"),
        (("-",), 1, "no variant is named control; found old, new; allowed: --control NAME, with one of these"),
        (("--from", "-", "--control", "third"), 1, "no variant named 'third'; there is: old, new"),
        (("-", "--control=old", "--weights", "old=50,third=50"), 1, "no variant named 'third'"),
    ],
)
def test_whatever_is_wrong_is_one_clear_line(arguments: tuple[str, ...], code: int, words: str) -> None:
    refused(call("analyze", *arguments, stdin=RATES.encode()), code, words)


def counts(old: int, new: int, *, errors: int) -> Counts:
    """As many requests of 100 ms in every slice; of each variant's, some failed."""
    requests = {}
    for name, n in (("model-a", old), ("model-b", new)):
        for slice_ in range(50):
            requests[name, slice_, 200] = n
            requests[name, slice_, 503] = errors
    variants = (("model-a", old), ("model-b", new))
    durations = {(name, slice_, "duration_ms"): 100 * (n + errors) for name, n in variants for slice_ in range(50)}
    bins: dict[BinKey, int] = {
        (name, "duration", group, 100.0, 10.0): 5 * (n + errors)
        for name, n in (("model-a", old), ("model-b", new))
        for group in range(10)
    }
    return Counts(requests, durations, bins)


START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "experiments.yaml"
    path.write_text(DOCUMENT)
    return path


def keep(folder: Path, *, stage: str = "s2") -> None:
    """A rollout in its second stage, as the controller leaves it on disk."""
    store = StateStore(folder)
    state = ExperimentState(
        phase=Phase.PROGRESSING,
        candidate="model-b",
        control="model-a",
        steps=(1000, 5000, 10_000),
        weights={"model-a": 5000, "model-b": 5000},
        stage=Stage(id="s2", weight=5000, started_at=START),
    )
    with store.locked():
        store.write("chat", state)
    past = PastStage(
        id="s1",
        weights={"model-a": 9000, "model-b": 1000},
        evidence=summarize(counts(90, 10, errors=1), ("model-a", "model-b")),
    )
    EvidenceStore(folder).write(
        "chat", StageEvidence(stage, Window(START, counts(40, 40, errors=2)), history=History(past=(past,)))
    )


def test_a_rollouts_evidence_of_all_stages(tmp_path: Path, config: Path) -> None:
    keep(tmp_path / "state")
    given = ("analyze", "chat", "--config", str(config), "--state", str(tmp_path / "state"))
    record = json.loads(call(*given, "--json").out)
    assert (record["source"], record["control"], record["stages"]) == ("chat", "model-a", 2)
    names = [part["metric"] for part in record["metrics"]]
    assert names == ["error_rate", "latency_mean", "latency_p50", "latency_p90", "latency_p95", "latency_p99"]
    rows = {row["variant"]: row for row in record["metrics"][0]["variants"]}
    assert (rows["model-b"]["requests"], rows["model-b"]["sum"]) == (50 * (10 + 1 + 40 + 2), 50 * 3)
    assert [split["stage"] for split in record["split"]] == ["1", "2"]
    text = call(*given, "--metric", "error_rate", "--plot", str(tmp_path / "p.png"))
    assert text.code == 0
    assert "2 stages compared one by one" in text.out
    assert "latency" not in text.out
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_a_rollout_with_segments_is_reported_by_segment(tmp_path: Path, config: Path) -> None:
    config.write_text(DOCUMENT.replace("    rollout:", "    segments: {header: x-kind, values: [power]}\n    rollout:"))
    folder = tmp_path / "state"
    keep(folder)
    given = ("analyze", "chat", "--config", str(config), "--state", str(folder))
    whole = counts(40, 40, errors=2)
    segments: dict[SegmentKey, int] = {}
    for name in ("model-a", "model-b"):
        for segment, share in (("power", 15), ("other", 35)):
            segments[name, segment, 200], segments[name, segment, 503] = 40 * share, 2 * share
    parted = Counts(whole.requests, whole.amounts, whole.bins, segments)
    EvidenceStore(folder).write("chat", StageEvidence("s2", Window(START, parted), history=History()))
    record = json.loads(call(*given, "--json").out)
    errors = next(part for part in record["metrics"] if part["metric"] == "error_rate")
    assert [(item["segment"], item["in_control"]["requests"]) for item in errors["segments"]] == [
        ("power", 630),
        ("other", 1470),
    ]
    assert "error_rate by segment" in call(*given).out
    assert "| segment | requests |" in call(*given, "--format", "markdown").out


def test_evidence_of_a_stage_that_is_over_is_not_taken_for_the_present_one(tmp_path: Path, config: Path) -> None:
    keep(tmp_path / "state", stage="s1")
    record = json.loads(
        call("analyze", "chat", "--config", str(config), "--state", str(tmp_path / "state"), "--json").out
    )
    assert record["stages"] == 1


def test_a_rollout_of_which_nothing_is_known(tmp_path: Path, config: Path) -> None:
    given = ("--config", str(config), "--state", str(tmp_path / "state"))
    refused(call("analyze", "chat", *given), 1, "nothing was counted for chat yet")
    refused(call("analyze", "chta", *given), 1, "no experiment named 'chta'; there is: chat")
    config.write_text(DOCUMENT[: DOCUMENT.index("    rollout:")])
    refused(call("analyze", "chat", *given), 1, "chat has no rollout")


@pytest.mark.process
def test_help_needs_no_science() -> None:
    """Shell completion would wait for scipy otherwise."""
    import subprocess
    import sys

    heavy = "('numpy', 'scipy', 'matplotlib')"
    code = f"import sys, abmesh.cli.main; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
    assert shutil.which("abmesh", path=str(Path(sys.executable).parent))

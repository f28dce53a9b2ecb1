"""The README and docs/benchmarks.md quote the results file, and the picture shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import documentation, growth, plot, tables
from bench.contenders import BY_NAME, CONTENDERS
from bench.summary import Sample

RESULTS: dict[str, Any] = json.loads(documentation.RESULTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("page", "lines"),
    [(documentation.README, documentation.readme_lines), (documentation.PAGE, documentation.page_lines)],
    ids=["README.md", "docs/benchmarks.md"],
)
def test_a_page_quotes_the_results_file(page: Path, lines: Any) -> None:
    """If this fails, ``python -m bench.documentation`` updates both pages."""
    assert documentation.quoted(page.read_text(encoding="utf-8")) == "\n".join(lines(RESULTS)).split("\n")


def test_every_contender_was_measured_or_skipped() -> None:
    skipped = {row["name"] for row in RESULTS["skipped"]}
    assert [row["name"] for row in RESULTS["rows"]] == [name for name in BY_NAME if name not in skipped]


def test_nothing_failed_in_the_run_that_is_quoted() -> None:
    assert [row["name"] for row in RESULTS["rows"] if row["failed_streams"]] == []


def test_docs_explain_every_data_path() -> None:
    text = documentation.PAGE.read_text(encoding="utf-8")
    for contender in CONTENDERS:
        explained = {f"`{contender.name}`", f"`{contender.name.split('_')[0]}_*`"}
        assert any(name in text for name in explained), contender.name


def test_docs_explain_every_series_of_growth_and_no_other() -> None:
    explained = documentation.PAGE.read_text(encoding="utf-8").partition("### Growth")[2].partition("\n#")[0]
    assert set(re.findall(r"`(\w+)`", explained)) == set(growth.SERIES)


def test_a_run_puts_every_size_of_every_series_into_the_page() -> None:
    points = [point for experiments in growth.EXPERIMENTS for point in growth.points(experiments)]
    sample = Sample(1000.0, 1.0, 2.0, envoy_cpu_us=100.0, failures={"failed_requests": 0})
    rows = growth.rows({(name, point): [sample] for name in growth.COMPARED for point in points})
    lines = documentation.page_lines({**RESULTS, "growth": rows})
    sizes = {
        "experiments": growth.EXPERIMENTS,
        "header_kb": (0, *growth.HEADER_KB),
        "connections": growth.CONNECTION_COUNTS,
        "new_users_percent": (0, growth.NEW_USERS_PERCENT),
    }
    assert list(sizes) == list(growth.SERIES)
    for what, of in sizes.items():
        for name in growth.COMPARED:
            shown = [line.split(" | ")[1] for line in lines if line.startswith(f"| `{what}` |") and f"`{name}`" in line]
            assert shown == [str(size) for size in of], (what, name)


RATIO = {"figure": "requests_per_second", "of": "native_split", "to": "envoy_alone", "ratio": 0.9512}
NEW_USERS = [
    {"what": "new_users_percent", "size": size, "name": name, "server_cpu_us": took}
    for name, size, took in (("nghttp2_1_worker", 0, 10), ("nghttp2_1_worker", 100, 30), ("go_1_processor", 100, 20))
]


def test_the_readme_has_three_sentences_of_figures_and_a_link_to_all() -> None:
    *sentences, link = documentation.readme_lines(RESULTS)
    assert len(sentences) == 3
    assert all("**" in sentence for sentence in sentences)
    assert "(docs/benchmarks.md)" in link


def test_ratios_are_quoted_with_their_aims() -> None:
    results = {**RESULTS, "ratios": [{**RATIO, "aim": "≥ 0.95", "met": True}], "half_load": [], "growth": []}
    (line,) = documentation.summary_lines(results)
    assert line == "- throughput, the native lane's routes to plain `weighted_clusters`: **0.9512** (aim ≥ 0.95: met)"
    (sentence, _) = documentation.readme_lines(results)
    assert "**0.9512**" in sentence
    assert "(aim ≥ 0.95: met)" in sentence


def test_the_cost_of_new_users_is_quoted_too() -> None:
    results = {**RESULTS, "ratios": [], "half_load": [], "growth": NEW_USERS}
    (line,) = documentation.summary_lines(results)
    assert line.endswith("every user new: **1.5**")
    assert "**1.5** times when every user is new)" in documentation.readme_lines({**RESULTS, "growth": NEW_USERS})[0]


def test_contenders_that_were_skipped_are_left_out() -> None:
    ratios = [row for row in RESULTS["ratios"] if row["to"] != "go_1_processor"]
    lines = documentation.readme_lines({**RESULTS, "ratios": ratios, "growth": []})
    assert "in Go" not in " ".join(lines)
    (only_link,) = documentation.readme_lines({**RESULTS, "ratios": [], "half_load": [], "growth": []})
    assert "docs/benchmarks.md" in only_link


def test_only_the_text_between_the_markers_is_replaced() -> None:
    page = f"before\n\n{documentation.BEGIN}\n\nold\n\n{documentation.END}\nafter\n"
    made = documentation.replaced(page, ["new", "lines"])
    assert made == f"before\n\n{documentation.BEGIN}\n\nnew\nlines\n\n{documentation.END}\nafter\n"
    assert documentation.quoted(made) == ["new", "lines"]
    assert documentation.replaced(made, ["new", "lines"]) == made


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no <!-- bench"):
        documentation.replaced("a page", ["x"])


def test_both_pages_and_the_picture_are_written(tmp_path: Path) -> None:
    readme, page = tmp_path / "README.md", tmp_path / "page.md"
    for one in (readme, page):
        one.write_text(f"{documentation.BEGIN}{documentation.END}", encoding="utf-8")
    documentation.update(documentation.RESULTS, readme, page, tmp_path / "picture.svg")
    assert documentation.quoted(readme.read_text(encoding="utf-8")) == documentation.readme_lines(RESULTS)
    assert (tmp_path / "picture.svg").read_text(encoding="utf-8").count("envoy_alone") >= 1


def test_the_picture_shows_every_data_path_once_in_every_panel() -> None:
    panels = plot.panels(RESULTS)
    names = [row["name"] for row in RESULTS["rows"]]
    assert set(panels) > plot.LOGARITHMIC
    for values in panels.values():
        assert list(values) == names


def test_the_picture_can_be_drawn_of_figures_that_are_missing_or_below_nothing(tmp_path: Path) -> None:
    results = json.loads(json.dumps(RESULTS))
    results["half_load"] = [{"name": results["rows"][0]["name"], "added_p99_ms": -3.0}]
    for row in results["rows"]:
        row["server_cpu_us"] = None
    plot.draw(results, tmp_path / "picture.svg")
    assert "-3" in (tmp_path / "picture.svg").read_text(encoding="utf-8")


def test_the_picture_is_small_and_names_every_data_path_of_the_results() -> None:
    drawn = documentation.PICTURE.read_text(encoding="utf-8")
    assert len(drawn) < 200_000
    for row in RESULTS["rows"]:
        assert f"<!-- {row['name']} -->" in drawn


def test_a_table_is_written_with_names_as_code_and_figures_to_the_right() -> None:
    row = {"name": "a/b", "figure": 12345.678, "met": False, "aim": "≥ 1", "shares": [0.6, 0.4], "none": None}
    shown = tables.TableOf(
        "x", "X", {"figure": "f", "met": "m", "aim": "a", "shares": "s", "none": "n"}, {"name": "N"}, {}
    )
    assert shown.markdown([row]) == [
        "| N | f | m | a | s | n |",
        "| --- | --: | --: | --: | --: | --: |",
        "| `a/b` | 12346 | NO | ≥ 1 | 60% 40% | - |",
    ]

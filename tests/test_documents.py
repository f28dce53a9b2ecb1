"""The documents lead somewhere: every link and every path that they name exists, and the map lists every page."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from controller.records import Cause
from tests.paths import ROOT

DOCS = ROOT / "docs"
RECORDS = DOCS / "decisions"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "envoy" / "README.md", ROOT / "charts" / "abmesh" / "README.md"]
)
OURS = ("abmesh", "ext_proc", "controller", "bench", "charts", "deploy", "examples", "tests", "envoy", "docs")

LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(rf"`((?:{'|'.join(OURS)})/[\w./-]*)`")
MODULE = re.compile(r"`(\w+\.(?:py|lua))`")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


MODULES = {path.name for top in OURS for pattern in ("*.py", "*.lua") for path in (ROOT / top).rglob(pattern)}


def text_of(page: Path) -> str:
    """A page without its blocks of code, whose brackets are no links."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What can follow ``#``: headings in lower case without punctuation, blanks as hyphens, as code hosts do."""
    dropped = str.maketrans("", "", string.punctuation.replace("-", "").replace("_", ""))
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {heading.lower().translate(dropped).replace(" ", "-") for heading in headings}


def linked(page: Path) -> set[Path]:
    """The files of ours that a page links to."""
    targets = (target.partition("#")[0] for target in LINK.findall(text_of(page)) if "://" not in target)
    return {(page.parent / target).resolve() for target in targets if target}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestAPage:
    def test_links_to_what_exists(self, page: Path) -> None:
        for target in LINK.findall(text_of(page)):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), target
            if anchor:
                assert anchor in anchors(found), target

    def test_opens_and_closes_every_block_of_code_on_a_line_of_its_own(self, page: Path) -> None:
        marks = [line.strip() for line in page.read_text(encoding="utf-8").splitlines() if "```" in line]
        assert [mark for mark in marks[::2] if not re.fullmatch(r"```\w*", mark)] == []
        assert [mark for mark in marks[1::2] if mark != "```"] == []
        assert len(marks) % 2 == 0

    def test_names_paths_and_modules_that_exist(self, page: Path) -> None:
        text = page.read_text(encoding="utf-8")
        assert [path for path in PATH.findall(text) if not (ROOT / path).exists()] == []
        assert set(MODULE.findall(text)) <= MODULES


def test_every_failure_names_a_drill_and_every_drill_is_named() -> None:
    rows = [line for line in (ROOT / "docs/operations/failures.md").read_text().splitlines() if line.startswith("| ")]
    named = [re.findall(r"\]\(\.\./\.\./tests/(?:drills|cluster)/(test_\w+)\.py\)", row) for row in rows]
    headings = [row for row, drills in zip(rows, named, strict=True) if not drills]
    assert {row.split(" | ")[0] for row in headings} == {"| what dies or misbehaves", "| ---"}
    there = {path.stem for path in (ROOT / "tests/drills").glob("test_*.py")} | {"test_shipped_faults"}
    assert {name for drills in named for name in drills} == there - {"test_report"}


def test_the_map_lists_every_document() -> None:
    documents = {page for page in DOCS.rglob("*.md") if page.parent != RECORDS} - {DOCS / "README.md"}
    assert documents <= linked(DOCS / "README.md")


def index_rows() -> dict[str, tuple[int, str]]:
    """Number and status of every record in the index, by the record's file."""
    text = (RECORDS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| \[[^]]+\]\(([^)]+)\) \| (.+) \|$", text, re.MULTILINE)
    return {name: (int(number), status) for number, name, status in rows}


def test_the_index_lists_every_decision_record_under_its_number() -> None:
    assert RECORDS / "README.md" in linked(DOCS / "README.md")
    numbers = {path.name: path.read_text(encoding="utf-8") for path in RECORDS.glob("[0-9]*.md")}
    assert {name: number for name, (number, _) in index_rows().items()} == {name: int(name[:4]) for name in numbers}
    for name, text in numbers.items():
        assert text.startswith(f"# {int(name[:4])}. "), name


def test_the_index_has_the_status_that_the_record_has() -> None:
    """A record that a later one replaced says so, and links to it."""
    for name, (_, shown) in index_rows().items():
        found = re.search(r"Status: (accepted|superseded by \[record (\d+)\])", (RECORDS / name).read_text())
        assert found is not None, name
        by = f"superseded by [{found[2]}]" if found[2] else "accepted"
        assert shown.startswith(by), name


def test_the_page_on_the_controller_explains_every_cause_of_a_decision() -> None:
    page = (DOCS / "operations" / "controller.md").read_text(encoding="utf-8")
    causes = page.partition("### Causes")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", causes, re.MULTILINE)
    explained = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(explained) == sorted(cause.value for cause in Cause)

"""What the demo prints: a live panel on a terminal, a line for each decision. Used by :mod:`abmesh.cli.demo.run`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from abmesh.cli.demo.scenarios import Outcome, Scenario
from abmesh.cli.demo.users import Summary

_BAR = 24


@dataclass(frozen=True, slots=True)
class Picture:
    """The content of the live panel at one moment.

    Attributes:
        seconds: since the start of the demo.
        stage: the rollout's stage, as text.
        weights: percent by variant.
        seen: what users saw recently, by variant.
        decision: kind of the last decision, including holds.
        reason: its reason.
        requests: of all users so far.
    """

    seconds: float
    stage: str
    weights: Mapping[str, float]
    seen: Mapping[str, Summary]
    decision: str
    reason: str
    requests: int


@dataclass(frozen=True, slots=True)
class DecisionLine:
    """A decision in the journal, as a line shows it.

    Attributes:
        id: of the journal entry.
        seconds: since the start of the demo.
        kind: what was decided.
        weights: percent by variant after the decision.
        reason: why.
    """

    id: str
    seconds: float
    kind: str
    weights: Mapping[str, float]
    reason: str


@dataclass
class View:
    """Prints the live panel and the decisions. Use it as a context manager."""

    console: Console
    scenario: Scenario
    _live: Live | None = None
    _printed: set[str] = field(default_factory=set)

    def __enter__(self) -> Self:
        story = Text.assemble((f"Scenario {self.scenario.name}: ", "bold"), self.scenario.story)
        self.console.print(story)
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def print_line(self, text: str) -> None:
        """Print a permanent line above the panel."""
        self.console.print(escape(text), soft_wrap=True)

    def show(self, picture: Picture) -> None:
        """Update the panel."""
        if self._live is not None:
            self._live.update(_panel(self.scenario, picture))

    def show_decisions(self, decisions: Iterable[DecisionLine]) -> None:
        """Print a permanent line for every decision that has none yet, by its id."""
        for line in decisions:
            if line.id not in self._printed:
                self._printed.add(line.id)
                weights = ", ".join(f"{name} {weight:g}%" for name, weight in line.weights.items())
                self.print_line(f"{line.seconds:5.1f} s  {line.kind:<9} {weights}: {line.reason}")


def _panel(scenario: Scenario, picture: Picture) -> Panel:
    table = Table(box=None, pad_edge=False, expand=True)
    for name, justify in (("variant", "left"), ("weight", "right"), ("", "left"), ("share seen", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type] # rich's own literal type
    for name in ("requests", "error rate", "p50", "p95"):
        table.add_column(name, justify="right")
    total = sum(summary.requests for summary in picture.seen.values())
    for name in [*picture.weights, *(name for name in picture.seen if name not in picture.weights)]:
        weight = picture.weights.get(name)
        summary = picture.seen.get(name)
        filled = round((weight or 0) / 100 * _BAR)
        row = [name, "-" if weight is None else f"{weight:g}%", "█" * filled + "░" * (_BAR - filled)]
        if summary is None:
            table.add_row(*row, "0.0%", "0", "-", "-", "-")
            continue
        rate = summary.errors / summary.requests
        table.add_row(
            *row,
            f"{summary.requests / total:.1%}",
            str(summary.requests),
            Text(f"{rate:.1%}", "bold red" if rate > 0.05 else ""),
            _milliseconds(summary.p50_ms),
            _milliseconds(summary.p95_ms),
        )
    last = Text.assemble((f"{picture.decision or 'waiting'}: ", "bold"), picture.reason)
    footer = Text(f"{picture.seconds:.0f} s, {picture.requests} requests; table: what users saw in the last 5 s", "dim")
    title = f"abmesh demo: {scenario.name} · {picture.stage}"
    return Panel(Group(table, Text(), last, footer), title=escape(title), title_align="left")


def _milliseconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f} ms"


def print_summary(console: Console, outcome: Outcome) -> None:
    """Print the outcome, with its report if it has one."""
    if outcome.told:
        console.print(outcome.told, soft_wrap=True, highlight=False, markup=False)
        console.print()
    table = Table(title="What users saw of each variant", title_justify="left")
    for name in ("variant", "requests", "errors"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for name, numbers in outcome.variants.items():
        table.add_row(name, f"{numbers['requests']:.0f}", f"{numbers['errors']:.0f}")
    console.print(table)
    weights = ", ".join(f"{name} {weight:g}%" for name, weight in outcome.final_weights.items())
    ended = outcome.outcome.replace("_", " ")
    style = "bold green" if outcome.passed else "bold red"
    text = f"{ended} after {outcome.seconds:.0f} s, {outcome.requests} requests, {outcome.errors} errors; {weights}"
    console.print(Text(text, style))
    if outcome.feedback:
        sent = ", ".join(f"{count} {event}" for event, count in sorted(outcome.feedback.items()))
        console.print(Text(f"feedback events sent: {sent}"))
    if outcome.problem:
        console.print(Text(outcome.problem, "red"))

"""What a drill reports: how many requests it sent, how many went wrong, and what the operator read meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PROPERTY = "drill"


@dataclass(slots=True)
class Drill:
    """One run of one drill.

    Attributes:
        sent: requests sent.
        failed: requests that a client saw fail and that would not have failed without abmesh.
        wrong: requests answered by another variant than the one they were assigned, or with a wrong stamp.
        read: what the operator read: lines of status, log, health check or metrics, as they were.
    """

    sent: int = 0
    failed: int = 0
    wrong: int = 0
    read: list[str] = field(default_factory=list)

    def operator_reads(self, *lines: str) -> None:
        """Keep lines that an operator would see, word for word."""
        self.read += [line.strip() for line in lines if line.strip()]

    def to_json(self) -> dict[str, Any]:
        """As pytest can carry it from one process to another."""
        return {"sent": self.sent, "failed": self.failed, "wrong": self.wrong, "read": list(self.read)}


def lines(drills: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The closing table: one line a drill, below it what the operator read."""
    width = max((len(name) for name, _ in drills), default=0)
    written = []
    for name, told in sorted(drills, key=lambda drill: drill[0]):
        numbers = "  ".join(f"{told[key]:>7,} {key}" for key in ("sent", "failed", "wrong"))
        written.append(f"{name:<{width}}  {numbers}")
        written += [f"    operator reads: {line:.200}" for line in told["read"]]
    return written

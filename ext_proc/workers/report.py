"""What a worker reports to its supervisor, as one line of JSON. Pure.

:mod:`ext_proc.workers.worker` writes reports to its stdout; :mod:`ext_proc.workers.supervisor` reads them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ext_proc.telemetry import Counts


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's state.

    Attributes:
        addresses: where it listens; empty until it answers requests.
        counts: everything that it has counted since it started.
    """

    addresses: tuple[str, ...] = ()
    counts: Counts = field(default_factory=Counts)

    def to_line(self) -> bytes:
        """The report as one line."""
        return json.dumps({"addresses": self.addresses, "counts": self.counts.dump()}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Report:
        """Parse a line that a worker wrote.

        Raises:
            ValueError: the line is not a report.
        """
        try:
            content = json.loads(line)
            return cls(tuple(content["addresses"]), Counts.load(content["counts"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a report: {type(error).__name__}") from error

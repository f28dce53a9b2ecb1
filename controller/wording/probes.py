"""Probes as sentences. Pure; used for reasons and by operators' commands."""

from __future__ import annotations

from controller.decision.probes import Probe
from controller.wording.values import show_milliseconds


def probe_text(probe: Probe) -> str:
    """What follows the variant's name: ``answered a probe in 12 ms``."""
    if probe.answered:
        assert probe.ms is not None
        some = "" if not probe.failed else f", but not at {probe.failed} of {probe.answered + probe.failed} places"
        problem = f" ({probe.problem})" if probe.failed else ""
        return f"answered a probe in {show_milliseconds(probe.ms)}{some}{problem}"
    if probe.failed:
        return f"did not answer a probe ({probe.problem})"
    return (
        "cannot be asked: there is no warm-up listener (--warmup http://HOST:PORT), and the document's clusters do not "
        "say where it is"
    )

"""What `abmesh promote` and `abmesh resume` show before they act: last decision, verdicts and a probe. Then they ask.

Everything shown goes to standard error, so that standard output has only what was done.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from abmesh.experiment.errors import AbmeshError, RefusedError
from abmesh.experiment.quantities import format_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.rollout.place import Place
    from controller.rollout.preview import Confirm, Preview


def confirmation(
    command: str, place: Place, warmups: Sequence[str], *, inside: bool = False, yes: bool, despite: bool
) -> Confirm:
    """What looks at a command before it acts.

    Args:
        command: its name.
        place: has the rollout.
        warmups: base addresses of warm-up listeners to probe through; where the document says that the cluster is, if
            there are none.
        inside: whether candidates can only be reached inside a cluster: then only warm-up listeners are asked.
        yes: whether to go on without asking.
        despite: whether to go on although the probe failed.
    """

    def confirm(preview: Preview) -> None:
        _show(place, preview)
        if inside and not warmups:
            _say(
                "  probe: none, because the candidate's pods are reached inside the cluster only; --warmup names an "
                "Envoy's warm-up listener to ask through"
            )
        else:
            _probe(preview, warmups, despite_probe=despite)
        if yes:
            return
        if not sys.stdin.isatty():
            raise RefusedError(
                f"abmesh {command} asks before it acts, and there is no terminal to ask at; after a look at the above, "
                f"run it with --yes"
            )
        typer.confirm(f"{command} {preview.experiment.name}?", abort=True, err=True)

    return confirm


def _show(place: Place, preview: Preview) -> None:
    from controller.rollout.review import verdicts
    from controller.rollout.status import status_of
    from controller.wording.values import show_age

    now, state, experiment = datetime.now(UTC), preview.state, preview.experiment
    assert experiment.rollout is not None
    candidate = experiment.rollout.candidate
    weight = format_percent(experiment.weights[candidate])
    _say(f"{experiment.name}: {state.phase.replace('_', ' ')}, {candidate} at {weight}")
    found = next((item for item in status_of(place, now=now) if item.experiment == experiment.name), None)
    if found is not None and found.decision is not None:
        made = found.decision
        _say(f"  last decision, {show_age(max(now - made.at, now - now))} ago: {made.kind}: {made.reason}")
    else:
        _say("  last decision: none is known")
    try:
        lines = verdicts(place.evidence, experiment, state, now)
    except AbmeshError as error:  # a right is missing; whoever decides may know enough without
        lines = [f"no verdicts: {error}"]
    for line in lines:
        _say(f"  {line}")
    if not lines:
        _say("  no verdicts: nothing has been judged at these weights")
    then = format_percent(preview.after)
    _say(f"  afterwards: {candidate} {'stays' if then == weight else 'is'} at {then}")


def _probe(preview: Preview, warmups: Sequence[str], *, despite_probe: bool) -> None:
    from controller.decision.probes import probe_target
    from controller.rollout.prober import probe
    from controller.wording.probes import probe_text

    experiment = preview.experiment
    assert experiment.rollout is not None
    candidate = experiment.rollout.candidate
    found = asyncio.run(probe(probe_target(experiment, candidate, preview.clusters), warmups))
    _say(f"  probe: {candidate} {probe_text(found)}")
    if found.passed or despite_probe:
        return
    if not found.answered and not found.failed:
        raise RefusedError(
            f"{candidate} {probe_text(found)}, so nothing was done; name a warm-up listener, or go on with "
            f"--despite-probe"
        )
    raise RefusedError(
        f"{candidate} {probe_text(found)}, so its users might get errors, and nothing was done; mend it, or go on with "
        f"--despite-probe (--yes does not overrule a probe)"
    )


def _say(line: str) -> None:
    typer.echo(line, err=True)

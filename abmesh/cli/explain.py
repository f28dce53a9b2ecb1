"""``abmesh explain``: why the last decision was made, with each guardrail's numbers and formula."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abmesh.cli.options import (
    CONFIG,
    OWN_NAMESPACE,
    ConfigOption,
    ContextOption,
    ExperimentArgument,
    JsonOption,
    KubernetesOption,
    NamespaceOption,
    OwnNamespaceOption,
    StateOption,
    print_json,
)
from abmesh.cli.places import Target, find
from abmesh.experiment.errors import StateError

if TYPE_CHECKING:
    from abmesh.analysis.explanation import ExplainedGuardrail, Explanation
    from abmesh.inference.numbers import Interval
    from controller.decision.warmup import WarmupResult
    from controller.records import JournalEntry


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(explain)


def explain(
    experiment: ExperimentArgument,
    entry_id: Annotated[
        str | None, typer.Option("--id", help="Explain this journal entry instead of the last decision.")
    ] = None,
    config: ConfigOption = CONFIG,
    state: StateOption = None,
    as_json: JsonOption = False,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
) -> None:
    """Explain the last decision: every guardrail with its numbers, limits and formula."""
    from abmesh.analysis.explanation import explain as explain_inputs
    from controller.codec.inputs import load_inputs
    from controller.state.lookup import decision_to_explain, kept_evidence
    from controller.state.pace import HOLD_EVERY

    place, name = find(experiment, config, state, Target(kubernetes, namespace, context, abmesh_namespace))
    journal, called = place.journal(name), place.journal_name(name)
    found = decision_to_explain(journal, name, entry_id, kept_evidence(place.evidence, [name]))
    if found is None and entry_id is not None and decision_to_explain(journal, name, None, {}) is not None:
        raise StateError(f"{called}: no entry {entry_id} about {name}; abmesh journal --json lists them")
    if found is None:
        place.experiment(name)  # raises UnknownName for a name that nothing knows
        raise StateError(f"{called}: no decision about {name} has been recorded yet; is a controller running?")
    entry = found.entry
    if entry.inputs is None:
        _print_without_inputs(entry, as_json=as_json)
        return
    try:
        explanation = explain_inputs(load_inputs(entry, found.packed))
    except StateError as error:
        if found.complete:
            raise
        raise StateError(f"{error}; {place.shortened}") from None
    if as_json:
        print_json(_as_json(entry, explanation))
    else:
        _print(entry, explanation)
        if entry_id is None:
            if entry.id != found.newest.id:
                typer.echo(f"\nsince then: {found.newest.kind}: {found.newest.reason}")
            minutes = HOLD_EVERY // timedelta(minutes=1)
            typer.echo(
                f"\nThese are the numbers of {entry.at:%H:%M:%S}; a lasting hold is recorded every {minutes} minutes. "
                "`abmesh status` shows the latest."
            )


def _print_without_inputs(entry: JournalEntry, *, as_json: bool) -> None:
    """An operator's command, or a hold without evidence: only the reason was recorded."""
    if as_json:
        print_json({"id": entry.id, "at": entry.at.isoformat(), "decision": entry.kind.value, "reason": entry.reason})
    else:
        typer.echo(f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.kind}: {entry.reason}")


def _print(entry: JournalEntry, explanation: Explanation) -> None:
    from abmesh.analysis.explanation import show_interval
    from controller.wording.checks import age_text
    from controller.wording.values import show_effect

    typer.echo(f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.experiment}  {entry.kind}: {entry.reason}")
    if explanation.warmup is not None:
        typer.echo(f"\nwarm-up: {explanation.texts['warmup']}")
    for text in explanation.control:
        typer.echo(f"\nthe control is broken: {text}")
    if explanation.emergency_stop is not None:
        typer.echo(f"\n{explanation.texts['emergency_stop']}")
    for item in explanation.guardrails:
        judgement = item.judgement
        watched = ", only watched (dry_run)" if item.guardrail.dry_run else ""
        typer.echo(f"\n{item.name}{watched}: {judgement.verdict}")
        typer.echo(f"  {item.text}")
        what = "change" if item.guardrail.compares else "value"
        typer.echo(f"  {what} is within {show_interval(item.guardrail, item.interval)}, at any look")
        if item.typical is not None:
            typer.echo(f"  {item.typical.text}")
        typer.echo(
            f"  harm: E {_e_value(judgement.log_e_harm)}, {show_effect(judgement.on_harm)} at "
            f"{1 / judgement.alpha_harm:.4g}; "
            f"health: E {_e_value(judgement.log_e_healthy)}, enough at {1 / judgement.alpha_healthy:.4g}; "
            f"{judgement.n} requests, design effect {judgement.design_effect:.3g}"
            if judgement.alpha_harm
            else "  no data"
        )
        typer.echo(f"  {item.formula}")
    if explanation.goal is not None:
        typer.echo(f"\ngoal: {explanation.goal.verdict}\n  {explanation.texts['goal']}")
    for judged, text in explanation.secondary_goals:
        typer.echo(f"\nsecondary goal {judged.metric}: {judged.verdict}\n  {text}")
    for check, text in explanation.checks:
        typer.echo(f"\n{text}{'' if check.age is None else f', {age_text(check.age)}'}")
    typer.echo(f"\nsample ratio: {explanation.texts['sample_ratio']}")
    for warning in explanation.warnings:
        typer.echo(f"\nwarning: {warning}")
    typer.echo("\nhow certain a decision must be:")
    for choice in explanation.choices:
        typer.echo(f"  {choice}")


def _as_json(entry: JournalEntry, explanation: Explanation) -> dict[str, Any]:
    from controller.codec.outlines import outline

    stopped, goal, texts = explanation.emergency_stop, explanation.goal, explanation.texts
    return {
        "id": entry.id,
        "at": entry.at.isoformat(),
        "experiment": entry.experiment,
        "decision": entry.kind.value,
        "cause": entry.cause.value,
        "reason": entry.reason,
        "guardrails": [_guardrail_json(item) for item in explanation.guardrails],
        "brake": None if stopped is None else {**outline(stopped), "text": texts["emergency_stop"]},
        "control": list(explanation.control),
        "goal": None if goal is None else {**outline(goal), "text": texts["goal"]},
        "secondary_goals": [{**outline(item), "text": text} for item, text in explanation.secondary_goals],
        "checks": [{**outline(item), "text": text} for item, text in explanation.checks],
        "warmup": None if explanation.warmup is None else _warmup_json(entry, explanation.warmup, texts["warmup"]),
        "sample_ratio": {**outline(explanation.sample_ratio), "text": texts["sample_ratio"]},
        "warnings": list(explanation.warnings),
        "choices": list(explanation.choices),
    }


def _warmup_json(entry: JournalEntry, result: WarmupResult, text: str) -> dict[str, Any]:
    return {"stand": result.state.value, "text": text, **(entry.inputs or {}).get("warmup", {})}


def _guardrail_json(item: ExplainedGuardrail) -> dict[str, Any]:
    from controller.codec.outlines import outline

    found = outline(item.judgement)
    if item.typical is not None:
        low, high = _limits(item.typical.interval)
        found |= {"typical_lower": low, "typical_upper": high, "typical_text": item.typical.text}
    lower, upper = _limits(item.interval)
    return {
        "guardrail": item.name,
        **found,
        "text": item.text,
        "lower": lower,
        "upper": upper,
        "formula": item.formula,
    }


def _limits(interval: Interval) -> tuple[float | None, float | None]:
    """Null stands for no limit."""
    lower, upper = (value if math.isfinite(value) else None for value in (interval.lower, interval.upper))
    return lower, upper


def _e_value(log_e: float) -> str:
    """An e-value from its logarithm, which may be too large for a number."""
    return f"{math.exp(log_e):.3g}" if log_e < 700 else f"1e{log_e / math.log(10):.0f}"

"""``abmesh explain``: why the last decision was made, each guardrail with its numbers and formula."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abmesh.cli.options import CONFIG, ConfigOption, ExperimentArgument, JsonOption, StateOption, print_json
from abmesh.experiment.errors import StateError

if TYPE_CHECKING:
    from abmesh.analysis.explanation import Explanation, GuardrailAccount
    from controller.decision.warmup import Warmth
    from controller.records import JournalEntry


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(explain)


def explain(
    experiment: ExperimentArgument,
    entry_id: Annotated[
        str | None, typer.Option("--id", help="Explain this entry of the journal; default: the last decision.")
    ] = None,
    config: ConfigOption = CONFIG,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why the last decision was made: every guardrail with its numbers, limits and formula."""
    from abmesh.analysis.explanation import explain as account_for
    from abmesh.analysis.replay import inputs_of
    from abmesh.experiment.store import FileStore
    from controller.settings import Settings
    from controller.state.journal import salvage

    path = Settings(config=config, state_dir=state).journal_path
    entries = salvage(path, experiment).entries
    if not entries:
        FileStore(config).read().document.experiment(experiment)  # raises UnknownName: nothing knows it
        raise StateError(f"{path}: no decision about {experiment} is recorded yet; is a controller running?")
    # A finished or waiting rollout only says so; what is to be explained is what brought it there.
    judged = [item for item in entries if item.inputs is not None and item.inputs.get("evidence")]
    entry = next((item for item in reversed(judged) if item.judgements), entries[-1])
    if entry_id is not None:
        found = [item for item in entries if item.id == entry_id]
        if not found:
            raise StateError(f"{path}: no entry {entry_id} about {experiment}; abmesh journal --json lists them")
        entry = found[0]
    if entry.inputs is None:
        _say_without_inputs(entry, as_json=as_json)
        return
    packed = {item.id: str((item.inputs or {}).get("evidence", "")) for item in entries}
    explanation = account_for(inputs_of(entry, packed))
    if as_json:
        print_json(_as_json(entry, explanation))
    else:
        _say(entry, explanation)
        if entry is not entries[-1] and entry_id is None:
            typer.echo(f"\nsince then: {entries[-1].kind}: {entries[-1].reason}")


def _say_without_inputs(entry: JournalEntry, *, as_json: bool) -> None:
    """A person's command, or a hold without evidence: the reason is all there is."""
    if as_json:
        print_json({"id": entry.id, "at": entry.at.isoformat(), "decision": entry.kind.value, "reason": entry.reason})
    else:
        typer.echo(f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.kind}: {entry.reason}")


def _say(entry: JournalEntry, explanation: Explanation) -> None:
    from abmesh.analysis.explanation import show_interval

    typer.echo(f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.experiment}  {entry.kind}: {entry.reason}")
    if explanation.warmth is not None:
        typer.echo(f"\nwarm-up: {explanation.warmth.text}")
    if explanation.brake is not None:
        typer.echo(f"\nbrake: {explanation.brake.text}")
    for account in explanation.guardrails:
        judgement = account.judgement
        typer.echo(f"\n{account.name}: {judgement.verdict}")
        typer.echo(f"  {judgement.text}")
        what = "change" if account.guardrail.compares else "value"
        typer.echo(f"  {what} is within {show_interval(account.guardrail, account.interval)}, at any look")
        typer.echo(
            f"  harm: E {_e_value(judgement.log_e_harm)}, {1 / judgement.alpha_harm:.4g} rolls back; health: "
            f"E {_e_value(judgement.log_e_healthy)}, {1 / judgement.alpha_healthy:.4g} is enough; "
            f"{judgement.n} requests, design effect {judgement.design_effect:.3g}"
            if judgement.alpha_harm
            else "  no data"
        )
        typer.echo(f"  {account.formula}")
    if explanation.goal is not None:
        typer.echo(f"\ngoal: {explanation.goal.verdict}\n  {explanation.goal.text}")
    if explanation.balance.alarm:
        typer.echo(f"\nsample ratio: {explanation.balance.text}")
    else:
        typer.echo(f"\nsample ratio: as the weights say, p {explanation.balance.p:.2g}")
    for warning in explanation.warnings:
        typer.echo(f"\nwarning: {warning}")
    typer.echo("\nhow sure a decision must be:")
    for choice in explanation.choices:
        typer.echo(f"  {choice}")


def _as_json(entry: JournalEntry, explanation: Explanation) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": entry.at.isoformat(),
        "experiment": entry.experiment,
        "decision": entry.kind.value,
        "cause": entry.cause.value,
        "reason": entry.reason,
        "guardrails": [_account_json(account) for account in explanation.guardrails],
        "brake": None if explanation.brake is None else explanation.brake.outline(),
        "goal": None if explanation.goal is None else explanation.goal.outline(),
        "warmup": None if explanation.warmth is None else _warmup_json(entry, explanation.warmth),
        "sample_ratio": explanation.balance.outline(),
        "warnings": list(explanation.warnings),
        "choices": list(explanation.choices),
    }


def _warmup_json(entry: JournalEntry, warmth: Warmth) -> dict[str, Any]:
    return {"stand": warmth.stand.value, "text": warmth.text, **(entry.inputs or {}).get("warmup", {})}


def _account_json(account: GuardrailAccount) -> dict[str, Any]:
    limits = account.interval.lower, account.interval.upper
    lower, upper = (value if math.isfinite(value) else None for value in limits)
    return {
        "guardrail": account.name,
        **account.judgement.outline(),
        "lower": lower,
        "upper": upper,
        "formula": account.formula,
    }


def _e_value(log_e: float) -> str:
    """An e-value from its logarithm, which may be too large for a number."""
    return f"{math.exp(log_e):.3g}" if log_e < 700 else f"1e{log_e / math.log(10):.0f}"

"""The inputs of a decision as the journal keeps them. Pure.

The evidence of earlier stages stands in the entries that ended them, and is put back when inputs are read. Written by
:mod:`controller.codec.entries`, read by :mod:`abmesh.analysis`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import AwareDatetime, ConfigDict, ValidationError

from abmesh.experiment.checks import Check
from abmesh.experiment.errors import StateError
from abmesh.experiment.model import Experiment
from abmesh.experiment.rollout import Rollout
from controller.codec.evidence import pack, unpack
from controller.codec.history import HistoryRecord
from controller.decision.checks import CheckResult
from controller.decision.decide import RULES, Inputs
from controller.decision.probes import Probe
from controller.decision.warmup import Progress
from controller.evidence.coverage import Coverage
from controller.records import ExperimentState, JournalEntry, Kind, Record


class _Inputs(Record):
    model_config = ConfigDict(frozen=True, extra="ignore")

    experiment: Experiment
    state: ExperimentState
    memory: HistoryRecord
    began: AwareDatetime | None = None
    evidence: str = ""
    envoys: int = 0
    absent: tuple[tuple[str, str], ...] = ()
    warmup: Progress | None = None
    probe: Probe | None = None
    rules: int = 1
    checks: tuple[CheckResult, ...] = ()
    behind: str = ""
    at: AwareDatetime
    now: AwareDatetime


def dump_inputs(inputs: Inputs) -> dict[str, Any]:
    """Inputs as plain JSON, without what warm-ups and checks send, such as a key: no decision depends on it."""
    experiment = inputs.experiment
    assert experiment.rollout is not None
    # An absent salt is kept as the one in force: a document cannot say that it has none.
    public = {"salt": experiment.public_salt, "rollout": _without_secrets(experiment.rollout)}
    record = _Inputs.model_construct(
        experiment=experiment.model_copy(update=public),
        state=inputs.state,
        memory=HistoryRecord.of(inputs.history, past_evidence=False),
        began=inputs.began,
        evidence=pack(inputs.evidence) if inputs.evidence else "",
        envoys=inputs.coverage.total,
        absent=inputs.coverage.absent,
        warmup=inputs.warmup,
        probe=inputs.probe,
        rules=RULES,
        checks=inputs.checks,
        behind=inputs.behind,
        at=inputs.at,
        now=inputs.now,
    )
    dumped = record.model_dump(mode="json", exclude_none=True)
    if experiment.secret_salt is not None:
        del dumped["experiment"]["salt"]
    return dumped


def evidence_text(entry: JournalEntry) -> str:
    """The packed evidence in an entry's inputs; empty if there is none."""
    return str((entry.inputs or {}).get("evidence", ""))


def rules_of(entry: JournalEntry) -> int:
    """Version of the rules that an entry was decided by; version 0.1.0 did not record it."""
    found = (entry.inputs or {}).get("rules", 1)
    return found if isinstance(found, int) else 1


def earlier_stages(entry: JournalEntry) -> tuple[str, ...]:
    """The ids of the entries that ended earlier stages of the rollout, oldest first; none if the inputs are damaged."""
    memory = (entry.inputs or {}).get("memory")
    past = memory.get("past") if isinstance(memory, dict) else None
    stages = past if isinstance(past, list) else []
    return tuple(str(stage["id"]) for stage in stages if isinstance(stage, dict) and "id" in stage)


def ends_stage(entry: JournalEntry) -> bool:
    """Whether an entry may have ended a stage, so that later ones need its evidence; a hold in one phase never does."""
    return entry.kind is not Kind.HOLD or entry.phase is not entry.phase_before


def load_inputs(entry: JournalEntry, packed: Mapping[str, str]) -> Inputs:
    """The inputs of an entry.

    Args:
        entry: of the controller's, with inputs.
        packed: packed evidence by the id of the entry that ended its stage.

    Raises:
        StateError: they are damaged, or evidence of an earlier stage is missing.
    """
    try:
        record = _Inputs.model_validate(entry.inputs)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StateError(f"the inputs of {entry.id} are damaged: {place}: {first['msg']}") from None
    past = []
    for stage in record.memory.past:
        if not packed.get(stage.id):
            raise StateError(f"the evidence of an earlier stage is missing from this journal: entry {stage.id}")
        past.append(stage.model_copy(update={"evidence": packed[stage.id]}))
    memory = record.memory.model_copy(update={"past": tuple(past)})
    return Inputs(
        experiment=record.experiment,
        state=record.state,
        history=memory.history(),
        coverage=Coverage(record.envoys, record.absent),
        at=record.at,
        now=record.now,
        began=record.began,
        evidence=unpack(record.evidence),
        warmup=record.warmup,
        probe=record.probe,
        checks=record.checks,
        behind=record.behind,
    )


def _without_secrets(rollout: Rollout) -> Rollout:
    """Without what no decision depends on and somebody may have put a key into."""
    public: dict[str, Any] = {"checks": tuple(map(_without_address, rollout.checks))}
    if rollout.warmup is not None:
        public["warmup"] = rollout.warmup.model_copy(update={"body": "", "headers": {}})
    return rollout.model_copy(update=public)


def _without_address(check: Check) -> Check:
    webhook = None if check.webhook is None else "https://left-out"
    return check.model_copy(update={"webhook": webhook, "address": None, "headers": {}})

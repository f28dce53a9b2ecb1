"""Worlds of :mod:`bench.worlds` that are rolled out through a real Envoy as well. Pure.

Each is shortened to what some thousand requests can show. The guardrails are much like those of the shipped document.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from abmesh.analysis.truth import LATE, HeavyUser, Outage
from bench.rollouts.plans import Plan
from bench.rollouts.upstream import Model

_USUAL: Final = Model(error_rate=0.01, latency_ms=30)

EQUAL: Final = Plan(
    "usual",
    "nothing differs",
    _USUAL,
    _USUAL,
    (10, 50, 100),
    (
        "{metric: error_rate, max: 5%}",
        "{metric: error_rate, max_increase: 2%}",
        "{metric: latency_p95, max_increase: 20%, relative: true}",
    ),
    most=6_000,
    emergency_stop="10%",
)
HEAVY_ALIKE: Final = replace(
    EQUAL, name="heavy-alike", truth="nothing differs, one user sends 10%", heavy=(HeavyUser(0.1),)
)
HEAVY_ON_CONTROL: Final = replace(
    EQUAL,
    name="heavy-on-control",
    truth="nothing differs, one user of the control sends 30%",
    heavy=(HeavyUser(0.3, joins=LATE),),
)
HEAVY_FAILS: Final = replace(
    EQUAL,
    name="heavy-fails",
    truth="one user of the candidate sends 3% and fails half of the time",
    heavy=(HeavyUser(0.03, error_rate=0.5, joins=1),),
)
HEAVY_FAILS_ON_CONTROL: Final = replace(
    EQUAL,
    name="heavy-fails-on-control",
    truth="one user of the control sends 3% and fails half of the time",
    heavy=(HeavyUser(0.03, error_rate=0.5, joins=LATE),),
)
PROBE: Final = replace(
    EQUAL,
    name="probe",
    truth="one user sends 12%, fails wherever it is, and is in the smallest stage",
    heavy=(HeavyUser(0.12, error_rate=1.0, joins=1),),
)
HIDDEN: Final = replace(
    EQUAL,
    name="hidden",
    truth="everybody else fails 10% instead of 1% on the candidate; a healthy user of the control sends 30%",
    candidate=replace(_USUAL, error_rate=0.1),
    heavy=(HeavyUser(0.3, error_rate=0.0, joins=LATE),),
    most=12_000,
)
HIDDEN_BEHIND_LESS: Final = replace(
    HIDDEN,
    name="hidden-behind-less",
    truth="everybody else fails 10% instead of 1% on the candidate; a healthy user of the control sends 20%",
    heavy=(HeavyUser(0.2, error_rate=0.0, joins=LATE),),
)
HIDDEN_ON_CANDIDATE: Final = replace(
    EQUAL,
    name="hidden-on-candidate",
    truth="everybody else fails 20% on the candidate; a healthy user of the candidate sends 20%",
    candidate=replace(_USUAL, error_rate=0.2),
    heavy=(HeavyUser(0.2, error_rate=0.0, joins=1),),
    most=12_000,
)
CONTROL_FAILS_FAST: Final = replace(
    EQUAL,
    name="control-fails-fast",
    truth="the control fails 80% of its requests at once",
    control=replace(_USUAL, outage=Outage(0.8, fast=True)),
)
CONTROL_FAILS_MOSTLY: Final = replace(
    EQUAL,
    name="control-fails-mostly",
    truth="the control fails 60% of its requests at once",
    control=replace(_USUAL, outage=Outage(0.6, fast=True)),
)
CONTROL_FAILS: Final = replace(
    EQUAL,
    name="control-fails",
    truth="the control fails 30% of its requests at normal speed",
    control=replace(_USUAL, outage=Outage(0.3)),
)
HARMLESS: Final = (EQUAL, HEAVY_ALIKE, HEAVY_ON_CONTROL, HEAVY_FAILS, HEAVY_FAILS_ON_CONTROL, PROBE)
HARMED: Final = (HIDDEN, HIDDEN_BEHIND_LESS, HIDDEN_ON_CANDIDATE)
BROKEN_CONTROLS: Final = (CONTROL_FAILS_FAST, CONTROL_FAILS_MOSTLY, CONTROL_FAILS)
WORLDS: Final = (*HARMLESS, *HARMED, *BROKEN_CONTROLS)

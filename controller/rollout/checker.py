"""Asks checks, beside the controller's loop: a Prometheus server for a number, a webhook for its status.

No tick waits for an answer: each request is a task, and the next tick reads what has come. Addresses, headers and
bodies of a check are never logged, nor part of a reason, since they may hold credentials.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp

from abmesh.experiment.checks import Check
from abmesh.experiment.errors import SourceError
from abmesh.experiment.names import BUCKETS
from abmesh.text import shorten
from controller.decision.checks import CheckResult, CheckTarget, Results, after_answer, without_answer
from controller.rollout.tick import TickReport
from controller.sources.fetching import Connections, describe_failure, read_body
from controller.sources.prometheus import QUERY_PATH

log = logging.getLogger("abmesh.controller")

AGENT: Final = "abmesh-check"

MAX_BYTES: Final = 64 * 1024
"""Longest answer of a Prometheus server that is read: one number."""

_HARMLESS = "PromQL info"
"""How warnings begin that say nothing about missing data."""


@dataclass(slots=True)
class _Asked:
    """One check of one experiment.

    Attributes:
        check: that was asked; another one in the document starts anew.
        result: of the last request that ended.
        started: when the last request was sent, in the loop's seconds.
        task: the request under way.
    """

    check: Check
    result: CheckResult | None = None
    started: float = -math.inf
    task: asyncio.Task[CheckResult] | None = None


@dataclass(slots=True)
class _Followed:
    target: CheckTarget
    checks: dict[str, _Asked] = field(default_factory=dict)


class Checker:
    """The checks of a controller. Use it only in the event loop's thread.

    Args:
        address: base address of the Prometheus server for checks that name none; None if there is none.
        clock: the wall clock, in UTC.
    """

    def __init__(self, address: str | None, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._address = address
        self._clock = clock
        self._connections = Connections("abmesh-checks")
        self._followed: dict[str, _Followed] = {}
        self._ending: set[asyncio.Task[CheckResult]] = set()

    @property
    def waiting(self) -> bool:
        """Whether a check has not been answered for the first time yet."""
        return any(it.result is None for found in self._followed.values() for it in found.checks.values())

    def results(self) -> Results:
        """The last result of each check."""
        for name, followed in self._followed.items():
            for asked in followed.checks.values():
                if asked.task is not None and asked.task.done() and not asked.task.cancelled():
                    if (error := asked.task.exception()) is not None:
                        kind = type(error).__name__  # its text may hold the address
                        log.error("%s: check %s failed; this is a bug in abmesh: %s", name, asked.check.name, kind)
                    else:
                        asked.result = asked.task.result()
                    asked.task = None
        return {
            name: {check: it.result for check, it in followed.checks.items() if it.result is not None}
            for name, followed in self._followed.items()
        }

    def follow(self, report: TickReport) -> None:
        """Ask what is due for the rollouts of a tick, and forget the checks of others."""
        self.results()
        wanted = {item.experiment: item.checks for item in report.outcomes if item.checks is not None}
        undecided = {*report.failures, *report.superseded}
        for name in [name for name in self._followed if name not in wanted and name not in undecided]:
            for asked in self._followed.pop(name).checks.values():
                self._end(asked)
        for name, target in wanted.items():
            followed = self._followed.setdefault(name, _Followed(target))
            followed.target = target
            self._ask_due(followed)

    async def close(self) -> None:
        """Stop all requests."""
        for followed in self._followed.values():
            for asked in followed.checks.values():
                self._end(asked)
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._connections.close()

    def _ask_due(self, followed: _Followed) -> None:
        now = asyncio.get_running_loop().time()
        checks = {check.name: check for check in followed.target.checks}
        for name in [name for name, it in followed.checks.items() if checks.get(name) != it.check]:
            self._end(followed.checks.pop(name))
        for name, check in checks.items():
            asked = followed.checks.setdefault(name, _Asked(check))
            if asked.task is None and now - asked.started >= check.interval.total_seconds():
                asked.started = now
                asked.task = asyncio.create_task(self._ask(check, followed.target, asked.result), name=f"check {name}")

    def _end(self, asked: _Asked) -> None:
        if asked.task is not None:
            asked.task.cancel()
            self._ending.add(asked.task)
            asked.task.add_done_callback(self._ending.discard)

    async def _ask(self, check: Check, target: CheckTarget, before: CheckResult | None) -> CheckResult:
        seconds = check.timeout.total_seconds()
        value, status = None, 0
        try:
            async with asyncio.timeout(seconds):
                if check.webhook is not None:
                    status = await self._post(check.webhook, check, target)
                else:
                    value = await self._query(check, target)
        except TimeoutError:
            problem = f"no answer within {seconds:g} s"
        except SourceError as error:
            problem = str(error)
        except ValueError:
            problem = "its address is not usable"  # the error's text would quote it
        except (aiohttp.ClientError, OSError) as error:
            problem = describe_failure(error)
        else:
            return after_answer(check, before, self._clock(), value, status)
        return without_answer(check, before, self._clock(), problem)

    async def _post(self, url: str, check: Check, target: CheckTarget) -> int:
        """The status of a webhook's answer, whose body is not read."""
        body = {
            "check": check.name,
            "experiment": target.experiment,
            "candidate": target.candidate,
            "control": target.control,
            "weight": target.weight * 100 / BUCKETS,
            "phase": target.phase,
            "decision": target.decision,
        }
        headers = {"user-agent": AGENT, **check.headers}
        async with self._connections.session.post(url, json=body, headers=headers, allow_redirects=False) as response:
            return response.status

    async def _query(self, check: Check, target: CheckTarget) -> float:
        """The number that a Prometheus server answers with.

        Raises:
            SourceError: there is no server, or its answer is not one number.
        """
        address = check.address or self._address
        if address is None:
            raise SourceError("there is no Prometheus server: give the check an address, or use --source prometheus")
        asked = {
            "query": check.query(target.experiment, target.candidate, target.control),
            "timeout": f"{check.timeout.total_seconds():g}s",
        }
        headers, session = {"user-agent": AGENT, **check.headers}, self._connections.session
        url = address.rstrip("/") + QUERY_PATH
        async with session.post(url, data=asked, headers=headers, allow_redirects=False) as response:
            text = await read_body(response, MAX_BYTES)
            return number_of(response.status, text)


def number_of(status: int, text: bytes) -> float:
    """The one number in a Prometheus server's answer to an instant query.

    Raises:
        SourceError: it refused the query, or there is no number, or several, or one that is not finite.
    """
    try:
        answer = json.loads(text)
        if status != 200 or answer["status"] != "success":
            raise SourceError(_refused(status, answer))
        warnings = [str(it) for it in answer.get("warnings", ()) if not str(it).startswith(_HARMLESS)]
        if warnings:
            raise SourceError(f"its answer may be incomplete: {shorten('; '.join(warnings))}")
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind == "scalar":
            value = float(result[1])
        elif kind == "vector":
            if len(result) != 1:
                found = "no series" if not result else f"{len(result)} series"
                raise SourceError(f"the query gives {found} instead of one")
            value = float(result[0]["value"][1])
        else:
            raise SourceError(f"the query gives a {shorten(str(kind))} instead of one number")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        why = f"it answered with status {status}" if status != 200 else "cannot parse its answer"
        raise SourceError(f"{why}; is this a Prometheus server?") from None
    if not math.isfinite(value):
        raise SourceError(f"the query gives {value:g}, which is not a finite number")
    return value


def _refused(status: int, answer: Any) -> str:
    return f"it refused the query with status {status}: {shorten(str(answer.get('error', 'no reason given')))}"

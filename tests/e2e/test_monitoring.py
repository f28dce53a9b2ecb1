"""A real Prometheus scrapes a real Envoy, the server and the controller: every expression of ours has data there.

Everything is asked of one run, in which things go well first and then wrong: a rollout that advances, an operator's
rollback, a broken document, a server that is killed, an Envoy that hangs, and no controller.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ruamel.yaml import YAML

from abmesh.experiment.latencies import BOUNDS_MS
from abmesh.inference.histogram import Bins, merge, quantile, size
from abmesh.local.model_server import Behaviour
from abmesh.local.stack import Stack, StackOptions, fetch
from controller.evidence.counts import Counts
from controller.evidence.summary import VariantEvidence
from controller.evidence.summing import summarize
from controller.sources.envoy_admin import EnvoyAdminSource
from controller.sources.prometheus import PrometheusSource
from tests.e2e.prometheus_process import ALERTS, EXAMPLE, Prometheus, need_prometheus, prometheus, promtool
from tests.e2e.support import CHAT, PATIENT, abmesh, eventually, metric, session

pytestmark = pytest.mark.envoy

DASHBOARD = ALERTS.parents[1] / "grafana" / "dashboard.json"
VARIANTS = ("model-a", "model-b")
PRICES = {"model-a": (1.0, 4.0), "model-b": (0.5, 2.0)}
DOCUMENT = """\
version: 1
experiments:
  - name: chat
    match: {path_prefix: /v1/}
    unit: [{header: x-user-id}, {cookie: llm-session}]
    issue_cookie: {name: llm-session, max_age: 1h}
    variants:
      - {name: model-a, cluster: model-a, weight: 100, control: true, price: {input: 1.0, output: 4.0}}
      - {name: model-b, cluster: model-b, weight: 0, price: {input: 0.5, output: 2.0}}
    segments: {header: x-user-segment, values: [power, casual]}
    events: [click, thumbs_up, thumbs_down, {name: purchase, value: {max: 100}}]
    rollout:
      candidate: model-b
      steps: [40, 60]
      stage: {min_duration: 5s, max_duration: 1h, min_requests: 20}
      guardrails:
        - {metric: error_rate, max: 50%}
        - {metric: latency_p95, max: 5s}
        - {metric: ttft_p95, max: 5s}
"""


@dataclass
class Client:
    """Users who chat and give feedback, and their own count of it."""

    running: Stack
    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VARIANTS, 0))
    tokens: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0] for name in VARIANTS})
    events: Counter[tuple[str, str]] = field(default_factory=Counter)

    async def round(self, client: aiohttp.ClientSession, number: int) -> None:
        """One user: a question, and perhaps a click and a purchase."""
        headers = {"x-user-id": f"user-{number}", "x-user-segment": ("power", "casual", "none")[number % 3]}
        if number % 7 == 0:
            del headers["x-user-id"]  # a session begins
            async with client.post(f"{self.running.url}/_ab/events/click") as response:
                assert response.status in (400, 503), "nobody's click"
        chat = {"messages": [{"role": "user", "content": "Hello there"}], "stream": number % 2 == 0}
        async with client.post(self.running.url + CHAT, headers=headers, json=chat) as response:
            text = await response.text()
            variant = response.headers.get("x-model-version")
        if response.status != 200 or variant is None:
            return
        self.requests[variant] += 1
        for line in text.splitlines():
            said = json.loads(line.removeprefix("data: ")) if '"usage"' in line else {}
            if said.get("usage"):
                self.tokens[variant][0] += said["usage"]["prompt_tokens"]
                self.tokens[variant][1] += said["usage"]["completion_tokens"]
        if "x-user-id" in headers and number % 3:
            for event in ("click", "purchase?value=12.5"):
                async with client.post(f"{self.running.url}/_ab/events/{event}", headers=headers) as response:
                    assert response.status == 204
                    # New weights may have moved the user since the question.
                    self.events[event.partition("?")[0], response.headers["x-model-version"]] += 1


@asynccontextmanager
async def _busy(of: Client) -> AsyncIterator[None]:
    """Users, one after another in four lanes; the block ends when the last of them has been answered."""
    stop = asyncio.Event()

    async def lane(client: aiohttp.ClientSession, number: int) -> None:
        while not stop.is_set():
            await of.round(client, number)
            number += 4

    async with session() as client, asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(lane(client, number))
        try:
            yield
        finally:
            stop.set()


@dataclass
class Run:
    """What came of the run.

    Attributes:
        panels: what every expression of the dashboard gave while users were busy.
        quiet: what every alert's expression gave then, by name.
        alerts: what those gave that were to be raised later.
        selectors: how many series every selector of the alerts had.
        pages: ``/metrics`` of the controller and of the server.
        polled: what Envoy's admin endpoint said, once nothing went on.
        scraped: what Prometheus said then.
    """

    client: Client
    panels: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    alerts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    quiet: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    selectors: dict[str, int] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    polled: Counts = field(default_factory=Counts)
    scraped: Counts = field(default_factory=Counts)


def _alerts() -> dict[str, str]:
    document = YAML(typ="safe").load(ALERTS.read_text())
    return {rule["alert"]: rule["expr"] for group in document["groups"] for rule in group["rules"]}


def _expressions(found: Any) -> list[str]:
    """Every expression of the dashboard, with Grafana's variables as a test has them."""
    if isinstance(found, list):
        return [expression for item in found for expression in _expressions(item)]
    if not isinstance(found, Mapping):
        return []
    own = [found["expr"]] if "expr" in found else []
    text = [re.sub(r"\$__(rate_)?interval", "60s", expression.replace("$experiment", "chat")) for expression in own]
    return [*text, *_expressions(list(found.values()))]


async def _has_data(server: Prometheus, expression: str) -> list[dict[str, Any]]:
    """Wait until an expression has series; these."""
    deadline = time.monotonic() + 90
    while not (found := await server.query(expression)):
        assert time.monotonic() < deadline, f"no data: {expression}"
        await asyncio.sleep(0.3)
    return found


async def _last(server: Prometheus, expression: str) -> list[dict[str, Any]]:
    """What an expression has once it has nothing, or after a while: new weights are not in force everywhere at once."""
    for _ in range(100):
        found = await server.query(expression)
        if not found:
            break
        await asyncio.sleep(0.3)
    return found


async def _watch(running: Stack, server: Prometheus) -> Run:
    run = Run(Client(running))
    assert await fetch(f"{running.url}/nowhere") is None  # matches no experiment, so nobody assigns it
    async with _busy(run.client):
        # The second step has been taken, and Prometheus has seen that and all that users do.
        for expression in (
            'increase(abmesh_controller_decisions_total{decision="advance"}[60s]) > 0',
            'rate(llm_events_valued_total{model_version="model-b",event="purchase"}[60s]) > 0',
            'rate(llm_time_to_first_token_by_segment_seconds_count{model_version="model-b",segment="other"}[60s]) > 0',
            'rate(llm_generation_seconds_total{model_version="model-b"}[60s]) > 0',
            "abmesh_controller_guardrail_budget_used_ratio",
        ):
            await _has_data(server, expression)
        moment = time.time()
        for expression in _expressions(json.loads(DASHBOARD.read_text())):
            run.panels[expression] = await server.query(expression, moment)
        for name, expression in _alerts().items():
            run.quiet[name] = await _last(server, expression)
    run.pages = {
        "controller": await fetch(f"{running.controller_url}/metrics") or "",
        "server": await fetch(running.server_metrics) or "",
    }
    await _compare(running, server, run)
    await _go_wrong(running, server, run)
    return run


async def _compare(running: Stack, server: Prometheus, run: Run) -> None:
    """What both sources say of the run, once Envoy has merged its histograms and Prometheus has scraped them."""
    admin = EnvoyAdminSource((running.admin,), timeout=10)
    scraped = PrometheusSource(server.url, selector='job="envoy"', timeout=10, max_age=timedelta(minutes=1))
    total = sum(run.client.requests.values())

    async def same() -> bool:
        (polled,), (found,) = await admin.observe(), await scraped.observe()
        assert polled.sample is not None, polled.error
        if found.sample is None:
            return False
        run.polled, run.scraped = polled.sample.counts("chat"), found.sample.counts("chat")
        everything = (
            sum(count for (_, name, _, _, _), count in run.polled.bins.items() if name == "duration") >= 2 * total
        )
        return (
            everything and run.polled.counters.same(run.scraped.counters) and _sizes(run.polled) == _sizes(run.scraped)
        )

    async def shown() -> bool:
        run.pages["controller"] = await fetch(f"{running.controller_url}/metrics") or ""
        page, feedback = run.pages["controller"], run.client.events.total()
        # Envoy merges its histograms a moment later than it counts.
        names = ("llm_requests_total", "llm_events_total", "llm_request_duration_seconds_count")
        return [metric(page, name) for name in names] == [total, feedback, total]

    try:
        await eventually(same, 60, 0.3)
        await eventually(shown, 30, 0.3)
    finally:
        await admin.close()
        await scraped.close()


def _sizes(counts: Counts) -> dict[tuple[str, str, int | str], int]:
    """How many values every histogram holds."""
    sizes: dict[tuple[str, str, int | str], int] = {}
    for (variant, histogram, place, _, _), count in counts.bins.items():
        sizes[variant, histogram, place] = sizes.get((variant, histogram, place), 0) + count
    return sizes


async def _go_wrong(running: Stack, server: Prometheus, run: Run) -> None:
    alerts = _alerts()

    async def raised(name: str) -> None:
        run.alerts[name] = await _has_data(server, alerts[name])

    code, _, errors = await abmesh("rollback", "chat", "--state", str(running.state), config=running.config)
    assert code == 0, errors
    await raised("AbmeshRolledBack")
    await running.children["ext-proc"].kill()
    async with _busy(run.client):
        await raised("AbmeshServerFailOpen")
        await raised("AbmeshUnassignedRequests")
    await running.children["ext-proc"].start()
    good = running.config.read_text()
    running.config.write_text("version: 1\nexperiments: nonsense\n")
    await raised("AbmeshConfigurationRejected")
    running.config.write_text(good)

    for name, expression in alerts.items():
        for selector in re.findall(r"(?:(?:abmesh|envoy)_\w+(?:\{[^}]*\})?|\{__name__[^}]*\})", expression):
            if name != "AbmeshNoController":
                await _has_data(server, selector)
            run.selectors[f"{name}: {selector}"] = len(await server.query(selector))
    running.children["envoy"].signal(signal.SIGSTOP)
    await raised("AbmeshControllerBlind")
    running.children["envoy"].signal(signal.SIGCONT)
    await running.children["controller"].kill()
    await raised("AbmeshNoController")


async def _run(folder: Path) -> Run:
    options = StackOptions(
        models=dict.fromkeys(VARIANTS, Behaviour(20, output_tokens=5)),
        interval=timedelta(seconds=1),
        routes_file=True,  # some alerts are about it
        controller_later=True,  # or its first decisions would be over before the first scrape
        message_timeout=PATIENT,
    )
    async with Stack(DOCUMENT, options, folder / "stack") as running:
        targets = {
            "envoy": running.admin,
            "abmesh-ext-proc": running.server_metrics.removesuffix("/metrics"),
            "abmesh-controller": running.controller_url,
        }
        plain = {job: url.removeprefix("http://") for job, url in targets.items()}
        async with prometheus(folder / "prometheus", plain) as server:
            await _has_data(server, 'up{job="envoy"} == 1 and on () up{job="abmesh-ext-proc"} == 1')
            await running.start_controller()
            return await _watch(running, server)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    need_prometheus()
    return asyncio.run(_run(tmp_path_factory.mktemp("monitoring")))


def test_every_expression_of_the_dashboard_returns_data(run: Run) -> None:
    assert len(run.panels) > 25
    for expression, found in run.panels.items():
        values = [float(series["value"][1]) for series in found]
        assert [value for value in values if math.isfinite(value)], expression


def test_both_sources_count_the_same(run: Run) -> None:
    assert dict(run.scraped.requests) == dict(run.polled.requests)
    assert dict(run.scraped.amounts) == dict(run.polled.amounts)
    assert dict(run.scraped.segments) == dict(run.polled.segments)
    assert _sizes(run.scraped) == _sizes(run.polled)
    names = {name for _, _, name in run.polled.amounts}
    assert names >= {"ttft_ms", "input_tokens", "streamed_tokens", "sessions", "events:click", "event_value:purchase"}


def _evidence(counts: Counts) -> dict[str, VariantEvidence]:
    return summarize(counts, dict.fromkeys(VARIANTS, 5000), {})


@pytest.mark.parametrize("histogram", ["duration", "ttft"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_quantiles_of_both_sources_lie_in_one_bucket(run: Run, histogram: str, share: float) -> None:
    polled, scraped = _evidence(run.polled), _evidence(run.scraped)
    for variant in VARIANTS:
        fine: Bins = merge(polled[variant].histograms(histogram).values())
        coarse: Bins = merge(scraped[variant].histograms(histogram).values())
        assert size(fine) == size(coarse) > 20
        # Where a bucket ends exactly at the share, one request decides on which side of its end the quantile is.
        request = 1 / size(fine)
        least, most = quantile(fine, share - request), quantile(fine, min(1.0, share + request))
        other = quantile(coarse, share)
        assert least is not None
        assert most is not None
        assert other is not None
        upper = min(bound for bound in BOUNDS_MS if bound >= most)
        lower = max((bound for bound in (0, *BOUNDS_MS) if bound < least), default=0)
        assert lower <= other <= upper, (variant, least, most, other)


def test_buckets_of_the_controllers_histograms_do_not_depend_on_the_source(run: Run) -> None:
    """Envoy's buckets end where ours do."""
    for counts in (run.polled, run.scraped):
        for _, _, _, lower, width in counts.bins:
            inside = [bound for bound in BOUNDS_MS if lower + 1e-6 < bound < lower + width - 1e-6]
            assert not inside, (lower, width)


def test_the_controller_shows_what_clients_counted_themselves(run: Run) -> None:
    page = run.pages["controller"]
    for variant in VARIANTS:
        who = {"experiment": "chat", "model_version": variant}
        assert metric(page, "llm_requests_total", **who, status="200") == run.client.requests[variant] > 0
        read, written = run.client.tokens[variant]
        assert metric(page, "llm_tokens_total", **who, direction="input") == read
        assert metric(page, "llm_tokens_total", **who, direction="output") == written > 0
        dollars = (read * PRICES[variant][0] + written * PRICES[variant][1]) / 10**6
        assert metric(page, "llm_cost_dollars_total", **who) == pytest.approx(dollars)
        assert metric(page, "llm_events_total", **who, event="click") == run.client.events["click", variant]
        assert (
            metric(page, "llm_event_value_total", **who, event="purchase")
            == 12.5 * run.client.events["purchase", variant]
        )
        assert metric(page, "llm_request_duration_seconds_count", **who) == run.client.requests[variant]
        assert metric(page, "llm_requests_by_segment_total", **who) == run.client.requests[variant]


async def test_metrics_of_controller_and_server_keep_to_prometheus_conventions(run: Run) -> None:
    for name, page in run.pages.items():
        assert len(page) > 1000
        assert await promtool("check", "metrics", given=page) == (0, ""), name


def test_no_alert_is_raised_while_all_is_well(run: Run) -> None:
    assert run.quiet == {name: [] for name in _alerts()}


def test_alerts_are_raised_when_they_should_be(run: Run) -> None:
    assert set(run.alerts) >= {
        "AbmeshRolledBack",
        "AbmeshServerFailOpen",
        "AbmeshUnassignedRequests",
        "AbmeshConfigurationRejected",
        "AbmeshControllerBlind",
        "AbmeshNoController",
    }
    assert all(run.alerts.values())
    (rolled_back,) = run.alerts["AbmeshRolledBack"]
    assert rolled_back["metric"] == {"experiment": "chat"}
    assert {series["metric"]["job"] for series in run.alerts["AbmeshConfigurationRejected"]} <= {
        "abmesh-ext-proc",
        "abmesh-controller",
    }


def test_every_selector_of_the_alerts_has_series(run: Run) -> None:
    assert set(_alerts()) == {selector.partition(":")[0] for selector in run.selectors}
    assert all(run.selectors.values()), run.selectors


async def test_promtool_finds_nothing_wrong_with_the_example() -> None:
    need_prometheus()
    for kind, name in (("config", "prometheus.yaml"), ("rules", "alerts.yaml")):
        code, said = await promtool("check", kind, str(EXAMPLE / name))
        assert code == 0, said

"""Experiments as objects for the tests of this folder: a plain one, a full one, and hypothesis' of every kind."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

PLAIN: Mapping[str, Any] = {
    "routes": [{"kind": "HTTPRoute", "name": "chat", "rule": "v1"}],
    "unit": [{"header": "x-user-id"}],
    "variants": [
        {"name": "model-a", "backend": {"service": "model-a", "port": 8000}, "weight": 95, "control": True},
        {"name": "model-b", "backend": {"service": "llm", "subset": "model-b", "port": 8000}, "weight": 5},
    ],
}

FULL: Mapping[str, Any] = {
    "routes": [{"kind": "VirtualService", "name": "chat", "rule": "default"}, {"kind": "HTTPRoute", "name": "chat"}],
    "match": {"pathPrefix": "/v1/", "host": "chat.example", "headers": {"x-tier": "gold"}},
    "lane": "ext_proc",
    "unit": [{"header": "x-user-id"}, {"cookie": "abmesh-user"}, {"query": "user"}],
    "issueCookie": {
        "name": "abmesh-user",
        "maxAge": "30d",
        "domain": "example.com",
        "secure": "true",
        "sameSite": "none",
        "keyFiles": ["cookie-new", "cookie-old"],
    },
    "unassigned": "control",
    "callers": {"namespaces": ["web", "batch"]},
    "variants": [
        {
            "name": "model-a",
            "backend": {"service": "llm", "subset": "model-a", "port": 8000},
            "weight": 87.5,
            "control": True,
            "price": {"input": 0.5, "output": 1.5},
        },
        {
            "name": "model-b",
            "backend": {"service": "llm", "subset": "model-b", "port": 8000, "namespace": "models"},
            "weight": 12.5,
            "timeout": "1m30s",
            "price": {"input": 0.2, "output": 0.6},
            "minReady": 2,
            "capacity": {"perReplica": "8/s"},
        },
    ],
    "overrides": [{"header": {"x-user-group": "beta-testers"}, "variant": "model-b"}],
    "segments": {"header": "x-user-segment", "values": ["power", "casual"]},
    "answers": {
        "inputTokens": "usage.in",
        "outputTokens": "usage.out",
        "refusals": [{"field": "refusal"}, {"header": "x-refused", "value": "yes"}],
        "cached": [{"header": "x-cache", "value": "hit"}],
    },
    "events": [
        {"name": "click"},
        {"name": "continuation"},
        {"name": "purchase", "value": {"min": 1, "max": 500.5}},
        {"name": "thumbs_up"},
        {"name": "thumbs_down"},
    ],
    "rollout": {
        "candidate": "model-b",
        "steps": [5, 12.5, 50, 100],
        "stage": {"minDuration": "1h", "minRequests": 500, "maxDuration": "1d"},
        "onTimeout": "rollback",
        "onHarm": "pause",
        "onBrokenControl": "advance",
        "guardrails": [
            {"metric": "error_rate", "max": "5%", "segment": "power"},
            {"metric": "error_rate", "maxIncrease": "100%", "relative": True, "negligible": "0.2%", "harm": "any"},
            {"metric": "latency_p95", "max": "250ms"},
            {"metric": "cost_per_request", "max": "0.002", "per": "user"},
            {"metric": "output_tokens_mean", "max": 100, "onHarm": "rollback", "dryRun": True},
        ],
        "goal": {"metric": "click_rate", "increase": True, "minEffect": "0.5%"},
        "secondaryGoals": [{"metric": "purchase_value_mean", "increase": True}, {"metric": "thumbs"}],
        "checks": [
            {"name": "gpu", "prometheus": "avg(gpu)", "max": 0.9, "interval": "1m", "onFailure": "rollback"},
            {"name": "hook", "webhook": "https://hook.example/x", "headers": {"x-team": "ml"}},
        ],
        "analysis": {"alpha": "5%", "emergencyStop": "20%", "sampleRatioAlpha": "0.1%", "tunedFor": 1000},
        "warmup": {"path": "/v1/chat", "body": "{}", "headers": {"x-warm": "1"}, "settled": "15%"},
        "run": "2026-12",
    },
    "slices": 40,
    "saltFile": "chat-salt",
    "manage": False,
}


def item(
    spec: Mapping[str, Any] = PLAIN, *, name: str = "chat", namespace: str = "llm", **changes: Any
) -> dict[str, Any]:
    """A whole object; changes replace fields of its spec."""
    return {
        "apiVersion": "abmesh.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": copy.deepcopy({**spec, **changes}),
    }


labels = st.text("ab-09", max_size=6).map(lambda text: f"n{text}9")
durations = st.one_of(
    st.integers(1, 10**9).map(lambda ms: f"{ms}ms"),
    st.tuples(st.integers(1, 400), st.sampled_from("smhd")).map(lambda both: f"{both[0]}{both[1]}"),
    st.integers(1, 10**6).map(lambda us: f"1h{us / 1000:.3f}ms"),
)
shares = st.one_of(
    st.integers(1, 9_999).map(lambda points: f"{points / 100:g}%"),
    st.floats(1e-9, 0.99).map(lambda share: f"{share:.17f}"),
)


@st.composite
def weights(draw: st.DrawFn, count: int) -> list[float]:
    cuts = sorted(draw(st.lists(st.integers(0, 10_000), min_size=count - 1, max_size=count - 1)))
    return [(stop - start) / 100 for start, stop in zip([0, *cuts], [*cuts, 10_000], strict=True)]


@st.composite
def plans(draw: st.DrawFn, candidate: str) -> dict[str, Any]:
    steps = sorted(draw(st.sets(st.integers(1, 10_000), min_size=1, max_size=5)))
    rails = st.one_of(
        shares.map(lambda share: {"metric": "error_rate", "maxIncrease": share}),
        durations.map(lambda limit: {"metric": "latency_p95", "max": limit}),
        st.integers(1, 500).map(lambda limit: {"metric": "output_tokens_mean", "max": limit, "dryRun": True}),
        st.floats(0.001, 500).map(lambda limit: {"metric": "output_tokens_mean", "max": f"{limit:.12f}"}),
    )
    return {
        "candidate": candidate,
        "steps": [step / 100 for step in steps],
        "stage": {"minDuration": draw(durations), "minRequests": draw(st.integers(0, 10**6))},
        "guardrails": draw(st.lists(rails, max_size=3)),
        "analysis": {"alpha": f"{draw(st.integers(1, 5000)) / 100:g}%"},
    }


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Specs of what a file has too, beside their routes."""
    names = draw(st.lists(labels, min_size=2, max_size=4, unique=True))
    shown = draw(weights(len(names)))
    spec = copy.deepcopy({"routes": PLAIN["routes"], "unit": PLAIN["unit"]})
    spec["variants"] = [
        {
            "name": name,
            "weight": weight,
            "control": name == names[0],
            "backend": draw(
                st.fixed_dictionaries(
                    {"service": labels, "port": st.integers(1, 65535)}, optional={"subset": labels, "namespace": labels}
                )
            ),
            **draw(st.fixed_dictionaries({}, optional={"timeout": durations})),
        }
        for name, weight in zip(names, shown, strict=True)
    ]
    more = st.fixed_dictionaries(
        {},
        optional={
            "match": st.fixed_dictionaries({}, optional={"pathPrefix": labels.map("/{}".format), "host": labels}),
            "lane": st.sampled_from(["ext_proc", "native"]),
            "salt": labels,
            "slices": st.integers(10, 100),
            "segments": st.just(FULL["segments"]),
            "events": st.just([{"name": "click"}, FULL["events"][2]]),
            "rollout": plans(names[1]),
            "overrides": st.just([{"header": {"x-user-group": "beta"}, "variant": names[1]}]),
            "answers": st.just(FULL["answers"]),
        },
    )
    spec |= draw(more)
    if draw(st.booleans()):
        secure = draw(st.sampled_from(["auto", "true", "false"]))
        spec["issueCookie"] = {"name": "abmesh-user", "maxAge": "1d", "secure": secure, "keyFiles": ["key"]}
        spec["unit"] = [*spec["unit"], {"cookie": "abmesh-user"}]
    return spec

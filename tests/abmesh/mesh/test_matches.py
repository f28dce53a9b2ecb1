"""Conditions on hosts: the same ones as the server's; the drill shows the real Envoy those around the longest."""

from __future__ import annotations

import string

import pytest
from betterproto2 import Casing
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.parts import Match
from abmesh.mesh.matches import host_is, request_match
from ext_proc.core.headers import host_of
from tests.abmesh.mesh.envoy_reading import take

IN_HOSTS = string.ascii_letters + string.digits + "._-"
HOSTS = st.integers(1, 253).flatmap(lambda size: st.text(st.sampled_from(IN_HOSTS), min_size=size, max_size=size))


def conditions(host: str) -> list[dict[str, object]]:
    lowered = Match(host=host).host
    assert lowered is not None
    return [matcher.to_dict(casing=Casing.SNAKE) for matcher in host_is(lowered)]


def patterns(host: str) -> list[str]:
    found = [condition["string_match"] for condition in conditions(host)]
    return [matcher["safe_regex"]["regex"] for matcher in found if "safe_regex" in matcher]  # type: ignore[index, operator]


def matched(host: str, authority: str) -> bool:
    """Whether Envoy matches an authority."""
    route = {"name": "host", "match": {"prefix": "/", "headers": conditions(host)}}
    rest = {"name": "rest", "match": {"prefix": "/"}}
    return take([route, rest], {":path": [b"/"], ":authority": [authority.encode()]}).name == "host"


@pytest.mark.parametrize("host", ["a" * 91, "k" * 253, "a." * 100 + "example"])
def test_hosts_whose_pattern_would_be_too_large_are_matched_without_one(host: str) -> None:
    assert all(host not in pattern for pattern in patterns(host))
    assert matched(host, host)
    assert matched(host, host.upper() + ":8080")
    assert matched(host, host + ":")
    for other in (host[:-1], host + "x", host + ".", host + ":x", "x" + host, host + "é", host + ":1:2"):
        assert not matched(host, other), other


@given(HOSTS, st.sampled_from(["", ":1", ":65535", "x", ".", "-", "_", "9", "k", "S", ":x", ":", "é"]))
def test_envoy_finds_the_host_that_the_server_finds(host: str, end: str) -> None:
    authority = host.swapcase() + end
    server = host_of({":authority": [authority.encode()]}) == host.lower().encode()
    assert matched(host, authority) == (server and end != ":x")


def test_other_conditions_follow_the_host() -> None:
    headers = request_match(Match(host="a" * 200, headers={"x-tier": "1"})).headers
    assert [headers[0].name, headers[-1].name] == [":authority", "x-tier"]

import re
from datetime import timedelta
from typing import Any

from betterproto2 import Casing

from abmesh.experiment.request_headers import needed_headers
from abmesh.mesh.listener import listener
from abmesh.mesh.options import RenderOptions
from tests.abmesh.mesh.documents import document, values_of


def manager(options: RenderOptions, **changes: Any) -> dict[str, Any]:
    rendered = listener(document(**changes), options).to_dict(casing=Casing.SNAKE)
    typed: dict[str, Any] = rendered["filter_chains"][0]["filters"][0]["typed_config"]
    return typed


def test_forged_headers_are_removed_before_anything_reads_them() -> None:
    mutations = manager(RenderOptions())["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    (mutation,) = mutations
    forged = re.compile(mutation["remove_on_match"]["key_matcher"]["safe_regex"]["regex"])
    for name in (
        "x-model-version",
        "x-ab-slice",
        "x-ab-",
        "x-envoy-retry-on",
        "x_model_version",
        "x_ab-slice",
        "x-ab_",
    ):
        assert forged.fullmatch(name), name
    for name in ("x-user-id", "x-model-versions", "x-abc", "x-ab", "ax-ab-slice", "x-envoy", "x_user_id", "xaabbslice"):
        assert not forged.fullmatch(name), name


def test_the_server_is_asked_before_answers_are_read_and_requests_routed() -> None:
    options = RenderOptions(message_timeout=timedelta(seconds=1))
    filters = manager(options)["http_filters"]
    assert [item["name"] for item in filters] == [
        "abmesh.cors",
        "abmesh.ext_proc",
        "abmesh.headers",
        "abmesh.answers",
        "envoy.filters.http.router",
    ]
    assert [item.get("disabled", False) for item in filters] == [True] * 4 + [False]
    asked = filters[1]["typed_config"]
    assert asked["message_timeout"] == "1s"
    sent = [pattern["exact"] for pattern in asked["forward_rules"]["allowed_headers"]["patterns"]]
    assert sent == list(needed_headers(document()))


def test_clients_are_believed_only_through_proxies_that_were_named() -> None:
    assert "xff_num_trusted_hops" not in manager(RenderOptions())
    assert manager(RenderOptions())["use_remote_address"] is True
    assert manager(RenderOptions(trusted_hops=2))["xff_num_trusted_hops"] == 2


def test_the_listener_has_the_address_from_the_options() -> None:
    rendered = listener(document(), RenderOptions(listen="[::]:8080")).to_dict(casing=Casing.SNAKE)
    assert rendered["address"] == {"socket_address": {"address": "::", "port_value": 8080}}


def test_paths_are_normalised_whatever_envoy_was_built_to_do() -> None:
    rendered = manager(RenderOptions())
    assert (rendered["normalize_path"], rendered["merge_slashes"]) == (True, True)


def test_everything_of_ours_has_a_name_of_ours() -> None:
    """Envoy looks up a route's settings by name; by the usual names they would reach an operator's own filters."""
    rendered = manager(RenderOptions(), event_origins=["https://shop.example"])
    names = [item["name"] for item in (*rendered["http_filters"][:-1], *rendered["access_log"])]
    names += [item["name"] for item in rendered["early_header_mutation_extensions"]]
    names += [name for settings in values_of(rendered, "typed_per_filter_config") for name in settings]
    assert names
    assert {name.partition(".")[0] for name in names} == {"abmesh"}
    loggers = [item["name"] for item in rendered["access_log"]]
    assert len(set(loggers)) == len(loggers)

from typing import Any

from betterproto2 import Casing
from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog

from experiment import names
from mesh.statistics import evidence_logger, unassigned_logger


def test_statistics_have_the_names_and_tags_of_the_architecture() -> None:
    config = evidence_logger().to_dict(casing=Casing.SNAKE)["typed_config"]
    assert config["stats_scope"] == {"prefix": "abmesh"}
    shapes = {
        stat["stat"]["name"]: [tag["name"] for tag in stat["stat"]["tags"]]
        for stat in (*config["counters"], *config["histograms"])
    }
    assert shapes == {
        "requests": ["experiment", "variant", "slice", "code"],
        "duration_ms": ["experiment", "variant", "slice"],
        "duration": ["experiment", "variant", "group"],
    }
    unassigned = unassigned_logger().to_dict(casing=Casing.SNAKE)["typed_config"]
    assert unassigned["stats_scope"] == {"prefix": "abmesh"}
    assert [tag["name"] for tag in unassigned["counters"][0]["stat"]["tags"]] == ["route", "code"]


def filters_of(logger: AccessLog, how: str) -> tuple[Any, str]:
    """The header and the expression of a filter that joins the two."""
    header, expression = logger.to_dict(casing=Casing.SNAKE)["filter"][how]["filters"]
    return header["header_filter"]["header"], expression["extension_filter"]["typed_config"]["expression"]


def test_evidence_is_what_took_a_variants_route_with_a_slice_and_unassigned_is_what_took_none() -> None:
    route = "'abmesh' in xds.route_metadata.filter_metadata"
    sliced = {"name": names.SLICE, "present_match": True}
    assert filters_of(evidence_logger(), "and_filter") == (sliced, route)
    unasked = {"name": names.MODEL_VERSION, "present_match": True, "invert_match": True}
    assert filters_of(unassigned_logger(), "or_filter") == (unasked, f"!({route})")


def test_no_tag_takes_a_value_that_a_client_can_choose() -> None:
    allowed = {f"%REQ({name})%" for name in (names.EXPERIMENT, names.MODEL_VERSION, names.SLICE, names.GROUP)}
    allowed |= {"%RESPONSE_CODE%", "%ROUTE_NAME%"}
    for logger in (evidence_logger(), unassigned_logger()):
        config = logger.to_dict(casing=Casing.SNAKE)["typed_config"]
        for stat in (*config["counters"], *config.get("histograms", ())):
            assert {tag["value_format"] for tag in stat["stat"]["tags"]} <= allowed

from betterproto2 import Casing

from abmesh.mesh.addresses import Endpoint
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.routes import route_configuration
from abmesh.mesh.warmup import warmup_listener
from tests.abmesh.mesh.documents import document, experiment, values_of

OF = document(experiment("one"), experiment("two", clusters=("b", "c")), default_cluster="a")


def test_each_variant_is_reached_as_its_users_reach_it_and_nothing_else_is() -> None:
    rendered = warmup_listener(OF, Endpoint("127.0.0.1", 9902)).to_dict(casing=Casing.SNAKE)
    (routes,) = values_of(rendered, "routes")
    served = [route.to_dict(casing=Casing.SNAKE) for route in route_configuration(OF).virtual_hosts[0].routes]
    of_users = {
        f"{route['name']}/{entry['response_headers_to_add'][0]['header']['value']}": entry["name"]
        for route in served
        for entry in route.get("route", {}).get("weighted_clusters", {}).get("clusters", ())
        if "response_headers_to_add" in entry
    }
    assert len(of_users) == 4
    assert {route["name"]: route["route"]["cluster"] for route in routes[:-1]} == of_users
    for route in routes[:-1]:
        said = {condition["name"]: condition["string_match"]["exact"] for condition in route["match"]["headers"]}
        assert route["name"] == f"{said['x-ab-experiment']}/{said['x-model-version']}"
    assert (routes[-1]["match"], routes[-1]["direct_response"]) == ({"prefix": "/"}, {"status": 404})


def test_nothing_is_asked_read_or_counted() -> None:
    rendered = warmup_listener(OF, Endpoint("127.0.0.1", 9902)).to_dict(casing=Casing.SNAKE)
    (filters,) = values_of(rendered, "http_filters")
    assert [item["name"] for item in filters] == ["envoy.filters.http.router"]
    assert not list(values_of(rendered, "access_log"))


def test_without_an_address_there_is_no_warm_up_listener() -> None:
    def names(options: RenderOptions) -> list[str]:
        return [item["name"] for item in render_bootstrap(OF, options)["static_resources"]["listeners"]]

    assert names(RenderOptions()) == ["abmesh", "abmesh-warmup"]
    assert names(RenderOptions(warmup="")) == ["abmesh"]

from betterproto2 import Casing
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from hypothesis import given

from abmesh.experiment.model import Document
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.yaml_text import to_yaml
from tests.abmesh.mesh.documents import default_document, document, documents, values_of
from tests.examples import examples
from tests.paths import ROOT


def test_the_readable_copy_is_up_to_date() -> None:
    lines = (ROOT / "envoy" / "bootstrap.yaml").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    assert text == to_yaml(render_bootstrap(default_document(), RenderOptions())), (
        "rendering has changed; write the copy anew as the comment at its top says"
    )


@examples(3)
@given(documents())
def test_a_rendered_bootstrap_is_complete_and_parses_back_to_the_same_messages(of: Document) -> None:
    """Strictly: a field that Envoy's messages do not have would be refused."""
    rendered = render_bootstrap(of, RenderOptions())
    names = [cluster["name"] for cluster in rendered["static_resources"]["clusters"]]
    assert set(values_of(rendered["static_resources"]["listeners"], "cluster")) | {"abmesh-ext-proc"} == set(names)
    assert len(names) == len(set(names))
    assert Bootstrap.from_dict(rendered).to_dict(casing=Casing.SNAKE) == rendered


def test_the_admin_endpoint_is_on_loopback_and_read_only() -> None:
    admin = render_bootstrap(document(), RenderOptions())["admin"]
    assert admin["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}
    allowed = [matcher["prefix"] for matcher in admin["allow_paths"]]
    assert {"/stats", "/ready"} <= set(allowed)
    assert not {"/", "/quitquitquit", "/logging", "/runtime", "/healthcheck"} & set(allowed)


def test_options_are_rendered() -> None:
    options = RenderOptions(ext_proc=("unix:/run/abmesh.sock",), node_id="edge-1", node_cluster="edge")
    rendered = render_bootstrap(document(), options)
    assert (rendered["node"]["id"], rendered["node"]["cluster"]) == ("edge-1", "edge")
    assert rendered["stats_flush_interval"] == "1s"
    assert list(values_of(rendered, "pipe")) == [{"path": "/run/abmesh.sock"}]

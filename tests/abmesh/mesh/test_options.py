from datetime import timedelta
from typing import Any

import pytest

from abmesh.experiment.errors import SettingsError
from abmesh.mesh.options import RenderOptions, ServerTls


def test_defaults_are_valid() -> None:
    options = RenderOptions()
    assert options.admin_endpoint.host == "127.0.0.1"
    assert options.message_timeout == timedelta(milliseconds=500)


@pytest.mark.parametrize("admin", ["0.0.0.0:9901", "10.0.0.1:9901", "[::]:9901", "[::ffff:10.0.0.1]:1"])
def test_an_admin_endpoint_that_others_can_reach_is_refused(admin: str) -> None:
    with pytest.raises(SettingsError, match="no authentication; allowed: a loopback address"):
        RenderOptions(admin=admin)


@pytest.mark.parametrize("warmup", ["0.0.0.0:9902", "[fd00::1]:9902"])
def test_a_warm_up_listener_that_others_can_reach_is_refused(warmup: str) -> None:
    with pytest.raises(SettingsError, match=r"chooses the variant.*allowed: a loopback address") as caught:
        RenderOptions(warmup=warmup)
    assert f"warmup: found '{warmup}'" in str(caught.value)


def test_there_need_be_no_warm_up_listener() -> None:
    assert RenderOptions(warmup="").warmup_endpoint is None


@pytest.mark.parametrize("admin", ["127.0.0.1:0", "127.9.9.9:9901", "[::1]:9901"])
def test_any_loopback_address_may_be_the_admin_endpoint(admin: str) -> None:
    assert RenderOptions(admin=admin).admin_endpoint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"listen": "everywhere"}, "listen: found 'everywhere'"),
        ({"listen": "localhost:80"}, "listen: found 'localhost:80'"),
        ({"ext_proc": ()}, "ext_proc: found none"),
        ({"ext_proc": ("a:1", "a:1")}, "each address once"),
        ({"ext_proc": ("unix:/s", "unix:///s")}, "each address once"),
        ({"ext_proc": ("unix:/s", "name:1")}, "cannot mix"),
        ({"message_timeout": timedelta()}, "message_timeout: found 0s; allowed: 0.001s to 60s"),
        ({"message_timeout": timedelta(hours=1)}, "message_timeout: found 3600s"),
        ({"stats_flush_interval": timedelta(microseconds=1)}, "stats_flush_interval: found 1e-06s"),
        ({"trusted_hops": -1}, "trusted_hops: found -1; allowed: 0 to 100"),
        ({"streams_per_connection": 0}, "streams_per_connection: found 0; allowed: 1 to 10000"),
        ({"ext_proc": ("unix:/s",), "ext_proc_tls": ServerTls("ca.pem")}, "ext_proc_name: found none"),
        ({"node_id": ""}, "node_id: found ''"),
        ({"node_cluster": "a\nb"}, "node_cluster: found"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_was_found(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("'", ".")):
        RenderOptions(**changes)


@pytest.mark.parametrize("parts", [{"ca": ""}, {"ca": "ca.pem", "cert": "e.pem"}, {"ca": "ca.pem", "key": "e.key"}])
def test_tls_to_the_server_needs_an_authority_and_a_key_with_a_certificate(parts: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="ext_proc_c"):
        ServerTls(**parts)


def test_unix_sockets_and_addresses_may_be_mixed() -> None:
    assert len(RenderOptions(ext_proc=("unix:/s", "127.0.0.1:1", "[::1]:1")).ext_proc_targets) == 3


@pytest.mark.parametrize("path", ["routes.json", "/run/routes.txt", "/run/routes.json\n", "/run/routes"])
def test_a_routes_file_that_envoy_would_not_read_is_refused(path: str) -> None:
    with pytest.raises(SettingsError, match=r"an absolute path that ends in \.json or \.yaml"):
        RenderOptions(routes_file=path)


@pytest.mark.parametrize("path", ["", "/run/routes.json", "/r.yaml"])
def test_routes_may_come_from_a_file(path: str) -> None:
    assert RenderOptions(routes_file=path).routes_file == path

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from abmesh.kube.client import Client
from abmesh.kube.connection import connect, from_service_account
from abmesh.kube.errors import NotConfigured, Unauthorized
from abmesh.kube.resources import CONFIG_MAPS
from abmesh.kube.watching import follow
from tests.abmesh.kube.fake_api import FakeApi
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pod, and an empty home."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def service_account(tmp_path: Path) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    trustme.CA().cert_pem.write_to_path(folder / "ca.crt")
    (folder / "token").write_text("first\n")
    (folder / "namespace").write_text("abmesh")
    return folder


def kubeconfig(path: Path, user: dict[str, Any], **cluster: Any) -> str:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:8001/", **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u"}},
            {"name": "llm", "context": {"cluster": "c", "user": "u", "namespace": "llm"}},
        ],
    }
    path.write_text(json.dumps(content))
    return str(path)


def test_a_pods_token_is_read_again_for_every_request(service_account: Path) -> None:
    connection = from_service_account(service_account, "10.96.0.1", "443")
    assert (connection.server, connection.namespace) == ("https://10.96.0.1:443", "abmesh")
    assert connection.headers() == [("authorization", "Bearer first")]
    (service_account / "token").write_text("second")
    assert connection.headers() == [("authorization", "Bearer second")]
    (service_account / "token").unlink()
    with pytest.raises(Unauthorized, match="cannot read the token: No such file"):
        connection.headers()


def test_an_ipv6_address_is_put_in_brackets(service_account: Path) -> None:
    assert from_service_account(service_account, "fd00::1", "443", "x").server == "https://[fd00::1]:443"
    assert from_service_account(service_account, "fd00::1", "443", "x").namespace == "x"


@pytest.mark.parametrize("missing", ["token", "ca.crt", "namespace"])
def test_a_pod_without_its_service_account_says_what_is_missing(service_account: Path, missing: str) -> None:
    (service_account / missing).unlink()
    with pytest.raises(NotConfigured, match=r"this is a pod, but its service account .* cannot be read"):
        from_service_account(service_account, "10.96.0.1", "443")


def test_a_process_in_a_pod_uses_the_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with pytest.raises(NotConfigured, match="this is a pod"):
        connect()


def test_in_a_pod_a_kubeconfig_that_is_named_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "config", {"token": "t"}))
    assert connect().server == "http://127.0.0.1:8001"


def test_contexts_name_the_namespace_and_an_option_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "config", {"token": "t"}))
    assert connect().namespace == "default"
    assert connect("llm").namespace == "llm"
    assert connect("llm", "web").namespace == "web"
    assert connect().headers() == [("authorization", "Bearer t")]
    with pytest.raises(NotConfigured, match="elsewhere"):
        connect("elsewhere")


def test_the_kubeconfig_of_the_home_folder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "home" / ".kube"
    folder.mkdir(parents=True)
    kubeconfig(folder / "config", {})
    assert connect().headers() == []


def test_client_certificates_and_the_servers_name_are_taken_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("ann")
    user = {
        "client-certificate-data": base64.b64encode(issued.cert_chain_pems[0].bytes()).decode(),
        "client-key-data": base64.b64encode(issued.private_key_pem.bytes()).decode(),
    }
    cluster = {
        "server": "https://127.0.0.1:6443",
        "certificate-authority-data": base64.b64encode(authority.cert_pem.bytes()).decode(),
        "tls-server-name": "kubernetes.default",
    }
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "config", user, **cluster))
    connection = connect()
    assert connection.server_name == "kubernetes.default"
    assert connection.ssl_context is not None
    assert len(connection.ssl_context.get_ca_certs()) == 1


@pytest.mark.process
def test_a_plugin_gives_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    version = "client.authentication.k8s.io/v1"
    answer = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": "from-plugin"}}
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"apiVersion": version, "command": str(plugin), "interactiveMode": "Never"}}
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "config", user))
    assert connect().headers() == [("authorization", "Bearer from-plugin")]


def test_a_token_in_a_file_is_read_again_for_every_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its path starts at the kubeconfig, and it wins over a token beside it, as with kubectl."""
    folder = tmp_path / "kube"
    folder.mkdir()
    (folder / "token").write_text("first\n")
    monkeypatch.setenv("KUBECONFIG", kubeconfig(folder / "config", {"tokenFile": "token", "token": "other"}))
    monkeypatch.chdir(tmp_path)
    connection = connect()
    assert connection.headers() == [("authorization", "Bearer first")]
    (folder / "token").write_text("second")
    assert connection.headers() == [("authorization", "Bearer second")]
    (folder / "token").write_text("\n")
    with pytest.raises(Unauthorized, match=r"cannot read the token: .*token is empty"):
        connection.headers()
    (folder / "token").unlink()
    with pytest.raises(Unauthorized, match=r"cannot read the token: No such file or directory: .*kube/token"):
        connection.headers()


def test_a_kubeconfig_says_as_whom_to_act(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api: FakeApi) -> None:
    user = {
        "token": "t",
        "as": "ada",
        "as-uid": "7",
        "as-groups": ["ml", "web"],
        "as-user-extra": {"example.com/Team": ["a", "b"]},
    }
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "config", user, server=api.connection.server))
    expected = [
        ("authorization", "Bearer t"),
        ("impersonate-user", "ada"),
        ("impersonate-uid", "7"),
        ("impersonate-group", "ml"),
        ("impersonate-group", "web"),
        ("impersonate-extra-example.com%2fteam", "a"),
        ("impersonate-extra-example.com%2fteam", "b"),
    ]
    connection = connect()
    assert connection.headers() == expected
    client = Client(connection)
    client.create(CONFIG_MAPS, "llm", {"metadata": {"name": "a"}})
    client.close()

    async def watched() -> None:
        async for listing in follow(connection, CONFIG_MAPS, "llm"):
            if listing.at:
                return

    asyncio.run(watched())
    assert len(api.seen) >= 2
    for seen in api.seen:  # by both clients, each value in a header of its own
        sent = [(name.lower(), value) for name, value in seen.headers.items()]
        assert [pair for pair in sent if pair[0] == "authorization" or pair[0].startswith("impersonate")] == expected


@pytest.mark.parametrize("field", [{"as-uid": "7"}, {"as-groups": ["ml"]}, {"as-user-extra": {"team": ["a"]}}])
def test_nobody_acts_with_anothers_groups_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: dict[str, Any]
) -> None:
    """Ignored, it would be a request with one's own, greater rights."""
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "config", {"token": "t", **field}))
    with pytest.raises(NotConfigured, match=f"{next(iter(field))} needs `as`, the user to act as"):
        connect()


def test_of_several_kubeconfigs_the_first_that_has_the_user_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    paths = [kubeconfig(tmp_path / name / "config", {"tokenFile": "token"}) for name in ("one", "two")]
    monkeypatch.setenv("KUBECONFIG", ":".join(paths))
    assert connect().headers() == [("authorization", "Bearer one")]


@pytest.mark.parametrize("content", ["", "[", "a: b", "{}", '{"clusters": [{}]}'])
def test_a_malformed_kubeconfig_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(NotConfigured, match=r"the kubeconfig .*config cannot be used"):
        connect()


def test_a_kubeconfig_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match=r"found no file at .*home/\.kube/config"):
        connect()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(NotConfigured, match=r"found no file at .*nowhere"):
        connect()


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root, with setpriv, can become another user"
)

PROGRAM = """
import sys
from abmesh.kube.connection import connect
from abmesh.kube.errors import KubeError
try:
    connect()
except KubeError as error:
    sys.exit(str(error))
assert "kubernetes.aio" not in sys.modules
"""


def as_nobody(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user without an entry in the password file, and without HOME.

    It may read every file, since our interpreter may lie in root's home.
    """
    as_user = ("setpriv", "--reuid=65532", "--clear-groups", "--inh-caps=+dac_read_search")
    return subprocess.run(
        [*as_user, "--ambient-caps=+dac_read_search", sys.executable, "-c", PROGRAM],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.process
@needs_root
def test_a_user_without_home_and_password_entry_is_told_what_is_missing() -> None:
    found = as_nobody()
    assert found.returncode == 1
    assert found.stderr.strip() == (
        "no kubeconfig: KUBECONFIG and HOME are not set, user id 65532 has no entry in the password file, and this is "
        "not a pod; set KUBECONFIG to a kubeconfig, or HOME to the folder that has .kube/config"
    )


@pytest.mark.process
@needs_root
def test_a_user_without_home_and_password_entry_can_use_a_kubeconfig(tmp_path: Path) -> None:
    found = as_nobody(KUBECONFIG=kubeconfig(tmp_path / "config", {"token": "t"}))
    assert (found.returncode, found.stderr) == (0, "")

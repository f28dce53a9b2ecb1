"""Command lines, ports and files of the control plane: what is set, and why.

The ports are the well-known ones: in a network of its own they are free.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.cluster.plane import audit
from tests.cluster.plane.network import NODE

ETCD: Final = "http://127.0.0.1:2379"
ETCD_PEER: Final = "http://127.0.0.1:2380"
API_PORT: Final = 6443
API: Final = f"https://{NODE}:{API_PORT}"
CONTROLLER_MANAGER_PORT: Final = 10257
XDS_PORT: Final = 15010
ISTIOD_HTTP_PORT: Final = 8080
ISTIOD_METRICS_PORT: Final = 15014
ISTIO_NAMESPACE: Final = "istio-system"
CLUSTER_ID: Final = "Kubernetes"

CONTROLLERS: Final = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
)
"""Those that the tests need. Not the pods' garbage collector and the node controllers: the node is a stand-in."""

MESH_CONFIG: Final = """\
accessLogFile: ''
defaultConfig: {discoveryAddress: 'localhost:15012'}
enableAutoMtls: false  # clusters would wait for secrets that nobody serves
enablePrometheusMerge: false
rootNamespace: istio-system
trustDomain: cluster.local
"""


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one control plane.

    Attributes:
        folder: that holds them.
        admin_token: of the user whom everything is allowed.
        manager_token: of kube-controller-manager.
    """

    folder: Path
    admin_token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    manager_token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @property
    def kubeconfig(self) -> Path:
        """Of the user whom everything is allowed."""
        return self.folder / "kubeconfig"

    @property
    def manager_kubeconfig(self) -> Path:
        """Of kube-controller-manager."""
        return self.folder / "controller-manager.kubeconfig"

    @property
    def authority(self) -> Path:
        """Certificate that the API server shows; it signs itself."""
        return self.folder / "certs" / "apiserver.crt"

    @property
    def account_key(self) -> Path:
        """Key that signs the tokens of service accounts."""
        return self.folder / "service-accounts.key"

    @property
    def tokens(self) -> Path:
        """Users of the API server."""
        return self.folder / "tokens.csv"

    @property
    def audit_policy(self) -> Path:
        """Which requests the API server logs."""
        return self.folder / "audit-policy.json"

    @property
    def audit_log(self) -> Path:
        """Requests of service accounts; :mod:`tests.cluster.plane.audit` reads it."""
        return self.folder / "audit.log"

    @property
    def mesh_config(self) -> Path:
        """Istio's configuration of the mesh."""
        return self.folder / "mesh.yaml"

    def write(self) -> None:
        """Write all but what the programs write themselves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
        self.account_key.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
        self.tokens.write_text(
            f'{self.admin_token},admin,admin,"system:masters"\n'
            f"{self.manager_token},system:kube-controller-manager,manager\n"
        )
        self.audit_policy.write_text(json.dumps(audit.POLICY))
        self.mesh_config.write_text(MESH_CONFIG)
        self.kubeconfig.write_text(kubeconfig(self.authority, self.admin_token))
        self.manager_kubeconfig.write_text(kubeconfig(self.authority, self.manager_token))


def kubeconfig(authority: Path, token: str, namespace: str = "default") -> str:
    """A kubeconfig with one context, `test`, as JSON, which is YAML as well."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": API, "certificate-authority": str(authority)}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        }
    )


def etcd_flags(files: Files) -> list[str]:
    """No fsync: nothing here must survive the machine."""
    return [
        f"--data-dir={files.folder / 'etcd'}",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={ETCD_PEER}",
        f"--initial-advertise-peer-urls={ETCD_PEER}",
        f"--initial-cluster=default={ETCD_PEER}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def api_server_flags(files: Files) -> list[str]:
    """RBAC and PodSecurity as in a cluster; no endpoints for the Service `kubernetes`, which nothing here routes."""
    return [
        f"--etcd-servers={ETCD}",
        f"--bind-address={NODE}",
        f"--advertise-address={NODE}",
        f"--secure-port={API_PORT}",
        "--endpoint-reconciler-type=none",
        f"--cert-dir={files.authority.parent}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={files.account_key}",
        f"--service-account-signing-key-file={files.account_key}",
        f"--token-auth-file={files.tokens}",
        "--authorization-mode=RBAC",
        f"--audit-policy-file={files.audit_policy}",
        f"--audit-log-path={files.audit_log}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--allow-privileged=true",
        "--profiling=false",
    ]


def controller_manager_flags(files: Files) -> list[str]:
    """Each controller under an account of its own: the manager's own user lacks their rights."""
    return [
        f"--kubeconfig={files.manager_kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--secure-port={CONTROLLER_MANAGER_PORT}",
        "--leader-elect=false",
        f"--cert-dir={files.folder / 'controller-manager-certs'}",
        "--use-service-account-credentials=true",
        f"--root-ca-file={files.authority}",
        f"--controllers={','.join(CONTROLLERS)}",
    ]


def istiod_flags(files: Files) -> list[str]:
    """No certificates, no webhooks: gateways ask for their configuration in plain text, and nothing is injected."""
    return [
        "discovery",
        f"--kubeconfig={files.kubeconfig}",
        f"--meshConfig={files.mesh_config}",
        f"--grpcAddr=:{XDS_PORT}",
        "--secureGRPCAddr=",
        f"--httpAddr=:{ISTIOD_HTTP_PORT}",
        "--httpsAddr=",
        f"--monitoringAddr=:{ISTIOD_METRICS_PORT}",
        "--ctrlz_address=127.0.0.1",
        f"--clusterRegistriesNamespace={ISTIO_NAMESPACE}",
        "--domain=cluster.local",
    ]


def istiod_environment(files: Files) -> dict[str, str]:
    """The filters of Istio's own proxy are off, for Envoy's release lacks them."""
    return {
        "KUBECONFIG": str(files.kubeconfig),
        "CLUSTER_ID": CLUSTER_ID,
        "ENABLE_CA_SERVER": "false",
        "EXTERNAL_ISTIOD": "false",
        "INJECT_ENABLED": "false",
        "INJECTION_WEBHOOK_CONFIG_NAME": "",
        "PILOT_CERT_PROVIDER": "istiod",
        "PILOT_ENABLE_ALPN_FILTER": "false",
        "PILOT_ENABLE_ANALYSIS": "true",
        "PILOT_ENABLE_METADATA_EXCHANGE": "false",
        "POD_NAME": "istiod",
        "POD_NAMESPACE": ISTIO_NAMESPACE,
        "VALIDATION_WEBHOOK_CONFIG_NAME": "",
    }

import ssl
from pathlib import Path

import pytest
import trustme

from abmesh.experiment.errors import StartError
from ext_proc.settings import Tls
from ext_proc.transport.tls import server_context


def test_unusable_tls_files_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(StartError, match=f"cannot use the TLS files {empty}, {tmp_path}/none.key"):
        server_context(Tls(empty, tmp_path / "none.key"))


def test_tls_is_1_2_or_newer_and_can_require_client_certificates(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    assert server_context(Tls(cert, key)).verify_mode == ssl.CERT_NONE
    strict = server_context(Tls(cert, key, cert))
    assert strict.verify_mode == ssl.CERT_REQUIRED
    assert strict.minimum_version == ssl.TLSVersion.TLSv1_2

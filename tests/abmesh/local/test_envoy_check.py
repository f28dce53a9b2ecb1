"""What is told of Envoy's refusal, and which field of the document it came from."""

from __future__ import annotations

import json

from abmesh.experiment.codec import parse
from abmesh.local.envoy_check import essence, fields_named, with_placeholders
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions

TEXT = """\
version: 1
clusters:
  a: {host: h, port: 1, tls: {ca_file: /etc/none.pem}}
  b: {host: models.example, port: 1, tls: true}
experiments:
  - name: chat
    match: {path_prefix: /v1/, headers: {x-tier: gold}}
    unit: [{header: x-user-id}]
    variants:
      - {name: model-a, cluster: a, weight: 90, control: true}
      - {name: model-b, cluster: b, weight: 10}
"""
DOCUMENT = parse(TEXT)


def test_the_reason_is_told_without_the_message_that_envoy_quotes() -> None:
    start = "[2026-11-30 19:40:23.796][1][critical][main] [server.cc:76] error initializing configuration '/t/e.yaml': "
    assert essence(f"{start}Invalid path: /etc/none.pem\n") == "Invalid path: /etc/none.pem"
    quoted = f'{start}name: "a"\nsni: "b"\n: Proto constraint validation failed (Tls.Sni: at most\n255 bytes)\n'
    assert essence(quoted) == "Tls.Sni: at most 255 bytes"
    assert essence("something else\n") == "something else"


def test_fields_are_found_by_their_whole_values_and_defaults_too() -> None:
    assert fields_named("Invalid path: /etc/none.pem", DOCUMENT) == ["clusters.a.tls.ca_file"]
    assert fields_named("Invalid path: /etc/none.pem.old", DOCUMENT) == []
    default = "Failed to load trusted CA certificates from /etc/ssl/certs/ca-certificates.crt"
    assert fields_named(default, DOCUMENT) == ["clusters.b.tls.ca_file"]
    assert fields_named("regex 'gold' is not", DOCUMENT) == ["experiments[0].match.headers.x-tier"]


def test_short_values_are_not_looked_for() -> None:
    assert fields_named("h is not a host, a neither", DOCUMENT) == []


def test_a_secret_salt_is_neither_needed_nor_shown_to_envoy() -> None:
    native = "lane: native\n    secret_salt: {file: /run/secrets/salt}\n    unit:"
    document = parse(TEXT.replace("unit:", native))
    rendered = render_bootstrap(with_placeholders(document), RenderOptions())
    assert "placeholder:" in json.dumps(rendered)
    assert with_placeholders(DOCUMENT) == DOCUMENT

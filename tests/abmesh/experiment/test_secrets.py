"""Secrets that a document names: read, refused without being shown, and kept out of everything that is written."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from abmesh.experiment import codec
from abmesh.experiment.errors import DocumentError, SecretError
from abmesh.experiment.model import Document
from abmesh.experiment.secrets import held, read_all, read_salts
from abmesh.experiment.store import FileStore, Rejected, Snapshot, generation_of

SALT, KEY = "s4lt-" * 8, "k3y/" * 10


def text(law: str = "", keys: str = "", name: str = "chat") -> str:
    listed = f", keys: {keys}" if keys else ""
    return f"""\
version: 1
experiments:
  - name: {name}
    {law}
    unit: [{{cookie: sid}}]
    issue_cookie: {{name: sid, max_age: 1h{listed}}}
    variants:
      - {{name: model-a, cluster: a, weight: 90, control: true}}
      - {{name: model-b, cluster: b, weight: 10}}
"""


def document(law: str = "", keys: str = "") -> Document:
    return codec.parse(text(law, keys))


@pytest.fixture
def salted(tmp_path: Path) -> Document:
    (tmp_path / "salt").write_text(f"  {SALT}\r\n")
    (tmp_path / "key").write_text(KEY)
    return document(f"secret_salt: {{file: {tmp_path}/salt}}", f"[{{file: {tmp_path}/key}}]")


def test_a_secret_salt_is_hashed_with_once_it_is_read(salted: Document) -> None:
    with pytest.raises(SecretError, match="has not been read"):
        _ = salted.experiments[0].hash_salt
    (read,) = read_all(salted).experiments
    assert (read.hash_salt, read.public_salt) == (SALT, "chat")
    assert read.issue_cookie is not None
    assert [key.value for key in read.issue_cookie.keys] == [KEY]


def test_only_what_is_needed_is_read(salted: Document) -> None:
    assert read_salts(salted, lambda _: False) is salted
    assert list(held(read_salts(salted, lambda _: True)).values()) == [SALT]


def test_a_secret_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABMESH_SALT", SALT)
    assert read_all(document("secret_salt: {env: ABMESH_SALT}")).experiments[0].hash_salt == SALT


def test_a_secret_is_in_no_dump_and_no_text(salted: Document) -> None:
    read = read_all(salted)
    shown = [repr(read), str(read), read.model_dump_json(), str(read.model_dump()), repr(read.experiments[0].unit)]
    assert not [line for line in shown if SALT in line or KEY in line]
    assert read.model_dump() == salted.model_dump()
    assert read != salted, "or a renderer would keep what it made of another secret"


@pytest.mark.parametrize("content", ["", " \n", "short", f"{SALT}:", f"{SALT} {SALT}", "x" * 200, "ü" * 40, "\0" * 40])
def test_a_weak_or_wrong_secret_is_refused_without_being_shown(tmp_path: Path, content: str) -> None:
    (tmp_path / "salt").write_text(content)
    with pytest.raises(SecretError) as caught:
        read_all(document(f"secret_salt: {{file: {tmp_path}/salt}}"))
    said = str(caught.value)
    assert said.startswith(f"chat: secret_salt: file {tmp_path}/salt: found ")
    assert "allowed: 32 to 128 letters" in said
    assert "openssl rand -hex 32" in said
    assert not content.strip() or content.strip() not in said


def test_a_missing_secret_is_refused(tmp_path: Path) -> None:
    for law, why in (
        (f"secret_salt: {{file: {tmp_path}/none}}", "no such file"),
        (f"secret_salt: {{file: {tmp_path}}}", "not a regular file"),
        ("secret_salt: {env: ABMESH_NO_SUCH}", "no such environment variable"),
    ):
        with pytest.raises(SecretError, match=why):
            read_all(document(law))


def test_a_pipe_in_a_secrets_place_stops_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "salt")
    with pytest.raises(SecretError, match="not a regular file"):
        read_all(document(f"secret_salt: {{file: {tmp_path}/salt}}"))


@pytest.mark.parametrize(
    ("law", "keys", "why"),
    [
        ("secret_salt: {}", "", "needs exactly one source; allowed: file or env"),
        ("secret_salt: {file: /a, env: B}", "", "needs exactly one source"),
        ("secret_salt: {file: salt}", "", "an absolute path"),
        ("secret_salt: {env: 1A}", "", "an environment variable's name"),
        ("secret_salt: plain-text", "", "must be a mapping"),
        ("salt: a\n    secret_salt: {env: A}", "", "allowed: either salt or secret_salt"),
        ("", "[{env: A}, {env: A}]", "appears twice"),
        ("", "[{env: A}, {env: B}, {env: C}, {env: D}, {env: E}, {env: F}]", "at most 5"),
    ],
)
def test_what_a_document_may_say(law: str, keys: str, why: str) -> None:
    with pytest.raises(DocumentError) as caught:
        document(law, keys)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("law", "keys"),
    [
        (f"secret_salt: {SALT}", ""),
        (f"secret_salt: {{env: {SALT}}}", ""),
        (f"secret_salt: {{value: {SALT}}}", ""),
        (f"secret_salt: [{SALT}]", ""),
        (f'secret_salt: "{SALT}', ""),
        ("", SALT),
        ("", f"[{SALT}]"),
        ("", f"[{{file: {SALT}}}]"),
        ("", f"[{{file: {{key: {SALT}}}}}]"),
        ("", f"[{SALT}"),
    ],
)
def test_a_secret_written_where_its_place_belongs_is_not_repeated(law: str, keys: str) -> None:
    with pytest.raises(DocumentError) as caught:
        document(law, keys)
    assert SALT not in str(caught.value)


def test_two_experiments_cannot_read_one_cookie_in_two_ways() -> None:
    first = text(keys="[{env: A}]")
    for other, fine in (("[{env: A}]", True), ("[{env: B}]", False), ("", False)):
        both = first + text(keys=other, name="other").partition("experiments:\n")[2]
        if fine:
            codec.parse(both)
        else:
            with pytest.raises(DocumentError, match="experiment chat authenticates this cookie with other keys"):
                codec.parse(both)


async def test_the_watch_reports_a_changed_secret_under_the_same_generation(tmp_path: Path) -> None:
    salt, path = tmp_path / "salt", tmp_path / "experiments.yaml"
    salt.write_text(SALT)
    path.write_text(text(f"secret_salt: {{file: {salt}}}"))
    watch = FileStore(path, secrets=read_all).watch(0.01)
    first = await anext(watch)
    salt.write_text("short")
    refused = await asyncio.wait_for(anext(watch), 20)
    salt.write_text(SALT)
    same = await asyncio.wait_for(anext(watch), 20)
    salt.write_text(SALT[::-1])
    changed = await asyncio.wait_for(anext(watch), 20)
    assert isinstance(refused, Rejected)
    assert isinstance(refused.error, SecretError)
    assert isinstance(first, Snapshot)
    assert isinstance(same, Snapshot)
    assert isinstance(changed, Snapshot)
    assert first.document == same.document != changed.document
    assert first.generation == changed.generation == generation_of(path.read_bytes())
    await watch.aclose()  # type: ignore[attr-defined]

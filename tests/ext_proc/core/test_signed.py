"""Authenticated cookies: who may write one, what is taken and what it costs."""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.model import Document
from abmesh.experiment.secret_source import SecretSource
from ext_proc.core.assignment import Assignment
from ext_proc.core.signed import MOST_CHECKED, Signer
from ext_proc.core.table import Table, compile_document
from ext_proc.service import Service, compile_rules
from ext_proc.telemetry import Counts
from tests.ext_proc.samples import EXPERIMENT, request_headers

CONTEXT = b"abmesh cookie llm-session\0"
OLD, NEW = "old-key-" * 5, "new-key-" * 5
ID, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
FRESH = "00112233445566778899aabbccddeeff"


def key(value: str) -> SecretSource:
    return SecretSource(file=f"/run/{value}").holding(value)


def keyed(*keys: str, **changes: object) -> Document:
    said = {**EXPERIMENT, "events": ["click", "continuation"], "overrides": [], **changes}
    document = Document.model_validate({"version": 1, "experiments": [said]})
    (experiment,) = document.experiments
    assert experiment.issue_cookie is not None
    cookie = experiment.issue_cookie.model_copy(update={"keys": tuple(map(key, keys))})
    experiments = (experiment.model_copy(update={"issue_cookie": cookie}),)
    return document.model_copy(update={"experiments": experiments})


def table(*keys: str, **changes: object) -> Table:
    return compile_document(keyed(*keys, **changes))


def assign(of: Table, *cookies: str, path: bytes = b"/v1/x") -> Assignment:
    headers = {":path": [path], ":authority": [b"x"]}
    if cookies:
        headers["cookie"] = ["; ".join(f"llm-session={cookie}" for cookie in cookies).encode()]
    return of.assign(headers, lambda: FRESH)


def value(key: str, identity: str = ID) -> str:
    return Signer(CONTEXT, (key.encode(),)).sign(identity)


def test_the_mac_is_hmac_sha256_of_name_and_identity_cut_to_128_bits() -> None:
    digest = hmac.new(OLD.encode(), CONTEXT + ID.encode(), hashlib.sha256).digest()
    assert value(OLD) == f"{ID}.{urlsafe_b64encode(digest[:16]).decode().rstrip('=')}"


def test_what_is_issued_is_taken_and_its_identity_alone_is_the_unit() -> None:
    issued = assign(table(OLD))
    assert issued.reason == "issued"
    assert issued.set_cookie is not None
    written = issued.set_cookie.partition(";")[0].removeprefix("llm-session=")
    assert written == value(OLD, FRESH)
    known = assign(table(OLD), written)
    assert (known.reason, known.in_session) == ("cookie", True)
    assert known[1:6] == issued[1:6] == assign(table(), FRESH)[1:6], "the law is the same with and without keys"


def test_the_first_key_signs_and_all_verify_so_that_rotation_moves_nobody() -> None:
    rotated = table(NEW, OLD)
    assert assign(rotated, value(OLD))[1:6] == assign(table(OLD), value(OLD))[1:6]
    assert f"={value(NEW, FRESH)};" in str(assign(rotated).set_cookie)
    assert assign(table(NEW), value(OLD)).reason == "reissued"


FORGED = {
    "alone": ID,
    "other key": value(NEW),
    "other identity": f"{OTHER}.{value(OLD).partition('.')[2]}",
    "other cookie": Signer(b"abmesh cookie other\0", (OLD.encode(),)).sign(ID),
    "short": value(OLD)[:-1],
    "long": value(OLD) + "A",
    "no mac": f"{ID}.",
    "upper case": value(OLD).replace("abcdef", "ABCDEF"),
    "quoted": f'"{value(OLD)}"',
    "padded": f"{value(OLD)}==",
}


@pytest.mark.parametrize("why", FORGED)
def test_a_forged_cookie_is_replaced_and_its_events_do_not_count(why: str) -> None:
    found = assign(table(OLD), FORGED[why])
    assert found.reason == "reissued"
    assert f"={value(OLD, FRESH)};" in str(found.set_cookie)
    assert assign(table(OLD), FORGED[why], path=b"/_ab/events/click") == Assignment("event_forged_cookie", "chat-model")
    assert assign(table(OLD), value(OLD), path=b"/_ab/events/click").reason == "event"
    assert assign(table(OLD), path=b"/_ab/events/click").reason == "event_no_unit"


def test_another_unit_counts_where_the_cookie_is_forged() -> None:
    found = table(OLD).assign(
        {":path": [b"/v1/x?user_id=u"], ":authority": [b"x"], "cookie": [b"llm-session=forged"]}, lambda: FRESH
    )
    assert (found.reason, found.set_cookie) == ("query", None)


def test_of_several_the_first_that_verifies_counts() -> None:
    assert assign(table(OLD), FORGED["other key"], value(OLD))[1:6] == assign(table(OLD), value(OLD))[1:6]
    both = assign(table(OLD), value(OLD, OTHER), value(OLD))
    assert both[1:6] == assign(table(OLD), value(OLD, OTHER))[1:6]


def test_few_are_checked_so_that_no_request_is_expensive(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = [*([FORGED["other identity"]] * 900), value(OLD)]
    calls: list[bytes] = []
    digest = hmac.digest

    def counting(key: bytes, message: bytes, name: str) -> bytes:
        calls.append(key)
        return digest(key, message, name)

    monkeypatch.setattr(hmac, "digest", counting)
    assert assign(table(NEW, OLD), *crowd).reason == "reissued"
    assert len(calls) == MOST_CHECKED * 2 + 1, "and one to issue"
    assert assign(table(OLD), *["garbage"] * 900, value(OLD)).reason == "cookie", "other forms cost nothing"


def test_answers_are_remembered_for_the_exact_cookie_and_under_these_keys_alone() -> None:
    drawn = iter(f"{number:032x}" for number in range(100))
    service = Service(Counts(), identities=lambda: next(drawn))

    def reasons(cookie: str, *keys: str) -> list[str]:
        if keys:
            service.rules = compile_rules(keyed(*keys))
        message = request_headers([("cookie", f"llm-session={cookie}".encode())])
        before = dict(service.counts.requests)
        answers = [service.answer(message) for _ in range(3)]
        new = [key[2] for key, count in service.counts.requests.items() for _ in range(count - before.get(key, 0))]
        assert len(set(map(repr, answers))) == (3 if new[0] == "reissued" else 1), "each forgery gets its own identity"
        return new

    assert reasons(FORGED["other key"], OLD) == ["reissued"] * 3
    assert reasons(value(OLD)) == ["cookie"] * 3
    assert reasons(FORGED["other identity"]) == ["reissued"] * 3
    assert reasons(value(OLD), NEW) == ["reissued"] * 3
    assert reasons(value(OLD), NEW, OLD) == ["cookie"] * 3


def test_the_marker_of_a_session_is_of_the_identity_and_is_not_signed() -> None:
    second = assign(table(OLD), value(OLD))
    assert second.continued
    assert second.set_cookie is not None
    assert second.set_cookie.startswith("llm-session-continued=")
    assert "." not in second.set_cookie.partition(";")[0]


def test_a_key_is_in_no_text() -> None:
    assert OLD not in repr(table(OLD))


@given(st.binary(max_size=200))
def test_no_bytes_are_taken_or_raise(written: bytes) -> None:
    assert Signer(CONTEXT, (OLD.encode(),)).verify([written]) == b""
    assert Signer(CONTEXT, (OLD.encode(),)).verify([ID.encode() + b"." + written]) == b""

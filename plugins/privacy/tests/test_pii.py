"""Structured personal data is found, near misses are left alone, and replacements say nothing of what they replace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upright import Stack
from upright.engine.execute import execute
from upright_privacy.patterns import EVERY, find, iban, luhn
from upright_privacy.surrogates import surrogate

PLANTED = [
    ("write to jo.lind+x@mail.example.org.", "email", "jo.lind+x@mail.example.org"),
    ("see https://example.org/a?b=1, today", "url", "https://example.org/a?b=1"),
    ("host 192.168.10.4 is down", "ip", "192.168.10.4"),
    ("over 2001:db8::8a2e:370:7334 now", "ip", "2001:db8::8a2e:370:7334"),
    ("card 4111 1111 1111 1111 please", "card", "4111 1111 1111 1111"),
    ("IBAN DE89 3704 0044 0532 0130 00.", "iban", "DE89 3704 0044 0532 0130 00"),
    ("ssn 123-45-6789", "national-id", "123-45-6789"),
    ("dni 12345678Z", "national-id", "12345678Z"),
    ("id 11010519491231002X", "national-id", "11010519491231002X"),
    ("call +49 30 901820 at noon", "phone", "+49 30 901820"),
    ("call (202) 555-0143", "phone", "(202) 555-0143"),
]


@pytest.mark.parametrize(("text", "kind", "value"), PLANTED)
def test_each_kind_is_found_whole(text: str, kind: str, value: str) -> None:
    assert [(hit.kind, text[hit.start : hit.end]) for hit in find(text, EVERY)] == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "card 4111 1111 1111 1112",
        "IBAN DE89 3704 0044 0532 0130 04",
        "ssn 000-12-3456",
        "dni 12345678A",
        "version 1.2.3 of 2026",
        "on 2026-11-24 at 10:30",
        "999.1.1.1",
        "blood pressure 120/80, pulse 72",
        "about 3.5 mg per 100 ml",
        "a @ b and c.d",
    ],
)
def test_near_misses_are_left_alone(text: str) -> None:
    # a number that is no card may still be taken for a telephone's: better one number too many than one too few
    found = {hit.kind for hit in find(text, EVERY)}
    assert found <= ({"phone"} if text.startswith(("card", "IBAN", "ssn")) else set())


@given(st.text("0123456789", min_size=12, max_size=18))
def test_luhn_knows_exactly_one_check_digit(digits: str) -> None:
    valid = [d for d in "0123456789" if luhn(digits + d)]
    assert len(valid) == 1 or len(set(digits)) == 1


@given(st.text("0123456789", min_size=12, max_size=20))
def test_iban_knows_its_check_digits(account: str) -> None:
    number = int("".join(str(int(c, 36)) for c in account + "GB") + "00")
    check = 98 - number % 97
    assert iban(f"GB{check:02d}{account}")
    assert not iban(f"GB{check % 97 + 1:02d}{account}") or check % 97 + 1 == check


@given(st.text(max_size=60))
def test_any_text_is_searched_and_hits_are_in_order_and_apart(text: str) -> None:
    end = 0
    for hit in find(text, EVERY):
        assert end <= hit.start < hit.end <= len(text)
        end = hit.end


@pytest.mark.parametrize(("text", "kind", "value"), PLANTED)
def test_surrogates_are_alike_for_like_and_never_the_value(text: str, kind: str, value: str) -> None:
    one = surrogate(kind, value, "run")
    assert one != value
    assert one == surrogate(kind, value, "run")
    assert one != surrogate(kind, value, "another run") or kind in ("ip",)
    if kind == "card":
        assert not luhn(one)


def test_every_split_is_masked_alike_and_the_ledger_holds_no_value(toy: dict[str, Any], tmp_path: Path) -> None:
    from conftest import toy_rows, write_rows
    from upright.engine.cleaning import read_ledger

    rows = [{**row, "text": f"{row['text']} mail jo@example.org"} for row in toy_rows(40, 0)]
    data = {"train": write_rows(tmp_path / "a.jsonl", rows), "test": write_rows(tmp_path / "b.jsonl", rows)}
    run = execute(Stack.load({**toy, "data": data, "privacy": "pii"}))
    for split in run.data:
        assert all("<EMAIL>" in text and "@" not in text for text in run.data[split]["text"])
    ledger = read_ledger(run.folder).to_pylist()
    assert {entry["reason"] for entry in ledger} == {"pii:email"}
    assert {entry["action"] for entry in ledger} == {"edit"}
    assert "example.org" not in str(ledger)


def test_only_what_was_asked_for_is_replaced(toy: dict[str, Any]) -> None:
    from datasets import Dataset

    from upright_privacy.pii import Pii

    run = type("R", (), {"folder": Path("x")})()
    rows = Dataset.from_list([{"row_id": "0", "text": "jo@example.org or 192.168.1.1"}])
    found = Pii(entities=["ip"]).clean(rows, "train", run).rows
    assert found[0]["values"]["text"] == "jo@example.org or <IP>"


def test_recall_on_real_labelled_text(shared_data: Path) -> None:
    import json

    lines = (shared_data / "presidio_pii" / "test.jsonl").read_text().splitlines()
    wanted = {"EMAIL_ADDRESS": "email", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "US_SSN": "national-id"}
    found, total = 0, 0
    for row in map(json.loads, lines):
        text = row.get("text") or row.get("full_text")
        spans = row.get("spans") or []
        hits = list(find(text, EVERY))
        for span in spans:
            kind = wanted.get(span.get("type") or span.get("entity_type") or span.get("label"))
            if kind:
                start, end = span.get("start", span.get("start_position")), span.get("end", span.get("end_position"))
                total += 1
                found += any(hit.start < end and start < hit.end for hit in hits)
    assert total > 20
    assert found / total > 0.85

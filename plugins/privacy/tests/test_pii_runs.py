"""What was planted in the data is in no file of a run; tokens lead back to it for who holds the key, and for nobody else."""

from __future__ import annotations

import base64
import gzip
import hmac
import json
import random
import re
import shutil
import string
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from conftest import toy_rows, write_rows
from upright import Stack
from upright.engine.execute import execute
from upright.errors import ConfigError, IntegrityError, PluginError
from upright_privacy.checks import cn_id, iban, luhn
from upright_privacy.user_key import derived
from upright_privacy.vault import TOKEN, Vault, user_key

Call = Callable[..., subprocess.CompletedProcess[str]]
KEY = bytes(range(100, 132))
OTHER_KEY = bytes(range(1, 33))
PLANTED = 10_000


def plant(count: int, seed: int) -> list[str]:
    """Addresses and numbers at random, each with its check digit."""
    draw = random.Random(seed)

    def digits(n: int) -> str:
        return "".join(draw.choices(string.digits, k=n))

    def one(n: int) -> str:
        kind, body = n % 6, digits(15)
        if kind == 0:
            return f"{''.join(draw.choices(string.ascii_lowercase, k=8))}.{n}@mail.example.net"
        if kind == 1:
            return f"+49 {draw.randint(30, 999)} {draw.randint(1000, 9999)}{n:05d}"
        if kind == 2:
            return f"1{draw.choice('3456789')}{digits(4)}{n:05d}"
        if kind == 3:
            return next(v for end in string.digits if luhn(v := f"4{body[:9]}{n:05d}{end}"))
        if kind == 4:
            born = f"{draw.randint(1950, 1999)}{draw.randint(1, 12):02d}{draw.randint(1, 28):02d}"
            return next(v for end in "0123456789X" if cn_id(v := f"110105{born}{body[:3]}{end}"))
        return next(v for end in range(2, 99) if iban(v := f"DE{end:02d}{body[:13]}{n:05d}"))

    found: dict[str, None] = {}
    n = 0
    while len(found) < count:
        found[one(n)] = None
        n += 1
    return list(found)


@pytest.fixture(scope="module")
def planted() -> list[str]:
    return plant(PLANTED, 1)


@pytest.fixture(scope="module")
def planted_file(planted: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four of them in a row, some in Chinese text without a space beside them."""
    rows = toy_rows(PLANTED // 4, 0)
    for n, row in enumerate(rows):
        one, two, three, four = planted[4 * n : 4 * n + 4]
        row["text"] = f"{row['text']} {one}, or {two}; 联系{three}谢谢 ({four})"
    return write_rows(tmp_path_factory.mktemp("planted") / "train.jsonl", rows)


def contents(folder: Path) -> str:
    """Everything that is in a folder, parquet and what is compressed laid open, and its file names."""
    found = []
    for path in sorted(folder.rglob("*")):
        found.append(path.name)
        if path.suffix == ".parquet":
            found.append(str(pq.read_table(path).to_pydict()))
        elif path.is_file():
            data = path.read_bytes()
            found.append((gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8", "replace"))
    return "\n".join(found)


def leaked(values: list[str], text: str) -> list[str]:
    """The values that a text holds."""
    return [value for value in values if value in text]


def stack_of(file: str, folder: Path, replacement: str) -> dict[str, Any]:
    """A stack that only cleans."""
    step = {"use": "pii", "replacement": replacement}
    return {"name": "planted", "data": {"train": file}, "privacy": step, "output": str(folder / "runs")}


@pytest.mark.parametrize("replacement", ["mask", "surrogate", "hash"])
def test_ten_thousand_planted_values_are_in_no_file(
    replacement: str, planted: list[str], planted_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPRIGHT_KEY", KEY.hex())
    run = execute(Stack.load(stack_of(planted_file, tmp_path, replacement)))
    assert leaked([*planted, KEY.hex()], contents(run.folder)) == []
    if replacement == "mask":  # nor is a part of one
        read = pq.read_table(run.folder / "data" / "train.parquet").column("text").to_pylist()
        assert {re.sub(r"<[A-Z-]+>", "#", row).partition(" #")[2] for row in read} == {", or #; 联系#谢谢 (#)"}


def test_nor_in_what_the_command_says_and_seals(
    planted: list[str], planted_file: str, upright: Call, tmp_path: Path
) -> None:
    (tmp_path / "stack.yaml").write_text(json.dumps(stack_of(planted_file, tmp_path, "vault")))
    key = base64.b64encode(KEY).decode()
    done = upright("run", "stack.yaml", env={"UPRIGHT_KEY": key})
    assert done.returncode == 0, done.stderr
    folder = (tmp_path / "runs" / "planted" / "latest").resolve()
    text = contents(folder)
    assert "vault.jsonl" in text
    assert leaked([*planted, key], text + done.stdout + done.stderr) == []
    assert upright("verify", folder).returncode == 0


def test_a_kind_that_is_left_out_is_seen_to_leak(planted: list[str], planted_file: str, tmp_path: Path) -> None:
    stack = {
        "data": {"train": planted_file},
        "privacy": {"use": "pii", "entities": ["email", "card", "iban", "national-id"]},
    }
    run = execute(Stack.load({"name": "leaky", **stack, "output": str(tmp_path)}))
    found = leaked(planted, contents(run.folder))
    assert len(found) > PLANTED / 4
    assert not [value for value in found if "@" in value]


def test_a_run_that_trains_holds_none_of_them_either(
    toy: dict[str, Any], planted: list[str], planted_file: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(bytes(range(200, 232)))
    stack = {
        **toy,
        "data": {"train": planted_file},
        "train": {"max_steps": 1, "batch_size": 8},
        "privacy": {"use": "pii", "replacement": "vault", "key_file": str(tmp_path / "key")},
        "explain": {"use": "integrated-gradients", "samples": 4},
    }
    run = execute(Stack.load(stack))
    assert run.exit_code == 0
    assert leaked(planted, contents(run.folder)) == []
    vault = Vault(run.folder / "steps" / "pii" / "vault.jsonl", bytes(range(200, 232)))
    assert len(vault) == len(planted)
    texts = [vault.restore(text) for split in ("train", "validation") for text in run.data[split]["text"]]
    assert sorted(texts) == sorted(json.loads(line)["text"] for line in Path(planted_file).read_text().splitlines())


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_hash_is_what_its_definition_says(
    toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PII_KEY", KEY.hex())
    rows = [
        {"text": text, "label": "a"} for text in ("Jo@Example.org x", "to jo@example.org", "call +49 30 901820 now")
    ]
    data = {"train": write_rows(tmp_path / "t.jsonl", rows)}
    settings = {"use": "pii", "replacement": "hash", "key_env": "PII_KEY"}
    run = execute(Stack.load({"name": "hashed", "data": data, "privacy": settings, "output": str(tmp_path)}))
    # RFC 5869's expansion of one block, then the token's 64 bits
    own = hmac.digest(KEY, b"upright-privacy pii hash\x01", "sha256")
    mail = hmac.digest(own, b"email\0jo@example.org\x000", "sha256").hex()[:16]
    phone = hmac.digest(own, b"phone\x004930901820\x000", "sha256").hex()[:16]
    assert run.data["train"]["text"] == [f"<EMAIL:{mail}> x", f"to <EMAIL:{mail}>", f"call <PHONE:{phone}> now"]


def test_surrogates_follow_from_your_key_or_from_nothing_public(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Dataset.from_list([{"row_id": str(n), "text": "mail jo@example.org, call +49 30 901820"} for n in range(3)])
    settings = {"use": "pii", "replacement": "surrogate", "key_env": "PII_KEY"}
    data = {"train": write_rows(tmp_path / "t.jsonl", [{"text": "x"}])}
    run = execute(Stack.load({"name": "s", "data": data, "privacy": settings, "output": str(tmp_path)}))
    step: Any = run.stack.steps[0].step

    def texts() -> list[str]:
        return [row["values"]["text"] for row in step.clean(rows, "train", run).rows]

    assert len(set(texts())) == 3  # no value can be followed from row to row
    assert texts() != texts()  # the same run, the same rows: nothing that is written down leads to the key
    monkeypatch.setenv("PII_KEY", KEY.hex())
    assert texts() == texts()


def test_a_vault_opens_with_its_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "vault.jsonl"
    vault = Vault(path, KEY)
    tokens = [vault.token("EMAIL", "email", value) for value in ("a@example.org", "b@example.org", "a@example.org")]
    vault.save()
    assert tokens[0] == tokens[2] != tokens[1]
    assert all(TOKEN.fullmatch(token) for token in tokens)
    text = f"{tokens[0]} and {tokens[1]}, not <EMAIL:00000000000000aa>"
    assert Vault(path, KEY).restore(text) == "a@example.org and b@example.org, not <EMAIL:00000000000000aa>"
    with pytest.raises(IntegrityError, match="the key is another"):
        Vault(path, OTHER_KEY).restore(text)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["sealed"], lines[1]["sealed"] = lines[1]["sealed"], lines[0]["sealed"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(IntegrityError, match="does not open"):
        Vault(path, KEY).restore(text)
    path.write_text('{"token": 1\n')
    with pytest.raises(IntegrityError, match=r"vault\.jsonl:1"):
        Vault(path, KEY)


def test_a_vault_goes_on_after_an_interruption(tmp_path: Path) -> None:
    first = Vault(tmp_path / "vault.jsonl", KEY)
    token = first.token("IP", "ip", "192.0.2.1")
    first.save()
    second = Vault(tmp_path / "vault.jsonl", KEY)
    assert second.token("IP", "ip", "192.0.2.1") == token
    assert second.token("IP", "ip", "192.0.2.2") != token
    second.save()
    assert len(Vault(tmp_path / "vault.jsonl", KEY)) == 2


def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PII_KEY", "correct horse battery staple")
    with pytest.raises(ConfigError, match="the variable PII_KEY holds no key") as error:
        user_key("PII_KEY", None, "here")
    assert "horse" not in str(error.value)
    monkeypatch.setenv("PII_KEY", base64.b64encode(KEY).decode())
    assert user_key("PII_KEY", None, "here").secret == KEY == user_key("PII_KEY", tmp_path / "absent", "here").secret
    (tmp_path / "key").write_text(OTHER_KEY.hex() + "\n")
    assert user_key("PII_KEY", tmp_path / "key", "here").secret == OTHER_KEY
    assert (
        len({derived(KEY, purpose) for purpose in ("hash", "surrogates", "vault tokens", "vault values")} | {KEY}) == 5
    )


def test_without_a_key_one_sentence_says_so(planted_file: str, upright: Call, tmp_path: Path) -> None:
    (tmp_path / "stack.yaml").write_text(
        f"data: {{train: {planted_file}}}\nprivacy:\n  - {{use: pii, replacement: vault}}\n"
    )
    done = upright("run", "stack.yaml", env={"UPRIGHT_KEY": ""})
    assert done.returncode == 2
    assert "stack.yaml:3:5  privacy.pii" in done.stderr.replace("\n", " ")
    assert "the variable UPRIGHT_KEY is not set" in " ".join(done.stderr.split())


# --- names and places -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"entities": ["email", "person"]}, "person needs a model that finds it; name one in ner"),
        ({"entities": ["place"], "ner": "presidio"}, "nothing that Presidio finds without an NLP engine"),
        ({"entities": ["email"], "ner": "models/x"}, "ner finds person and place"),
        ({"presidio_conf": "x.yaml"}, "presidio_conf goes with ner: presidio"),
        ({"ner_labels": {"A": "person"}}, "ner_labels goes with a model's folder"),
        ({"ner": "models/x", "ner_labels": {"A": "thing"}}, "ner_labels"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, Any], sentence: str, planted_file: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        Stack.load({"data": {"train": planted_file}, "privacy": {"use": "pii", **settings}})
    assert len(error.value.problems) == 1


def cleaned(tmp_path: Path, texts: list[str], **settings: Any) -> list[str]:
    """The texts after a run that only cleans."""
    data = {"train": write_rows(tmp_path / "names.jsonl", [{"text": text} for text in texts])}
    stack = {"name": "names", "data": data, "privacy": {"use": "pii", **settings}, "output": str(tmp_path / "runs")}
    return list(execute(Stack.load(stack)).data["train"]["text"])


def test_without_presidio_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "presidio_analyzer", None)
    with pytest.raises(PluginError, match=r"pip install 'upright-privacy\[presidio\]'"):
        cleaned(tmp_path, ["x"], ner="presidio")


def test_presidio_brings_its_patterns_and_with_an_engine_names(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer")
    import spacy

    text = "NHS 943 476 5919 of Ann Smith, Berlin, jo@example.org"
    assert "Ann Smith, Berlin, <EMAIL>" in cleaned(tmp_path, [text], ner="presidio")[0]
    assert "9434765919" not in "".join(cleaned(tmp_path, [text], ner="presidio")).replace(" ", "")
    language = spacy.blank("en")
    ruler = language.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ann Smith"}, {"label": "GPE", "pattern": "Berlin"}])
    language.to_disk(tmp_path / "rules")
    conf = {"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": str(tmp_path / "rules")}]}
    (tmp_path / "engine.yaml").write_text(json.dumps(conf))
    found = cleaned(tmp_path, [text], ner="presidio", presidio_conf=str(tmp_path / "engine.yaml"))[0]
    assert found.endswith("of <PERSON>, <PLACE>, <EMAIL>")
    (tmp_path / "engine.yaml").write_text(json.dumps({**conf, "models": [{"lang_code": "en", "model_name": "absent"}]}))
    with pytest.raises(PluginError, match="spaCy's model 'absent' is not installed"):
        cleaned(tmp_path, [text], ner="presidio", presidio_conf=str(tmp_path / "engine.yaml"))
    (tmp_path / "engine.yaml").write_text("models: 3")
    with pytest.raises(ConfigError, match="is no configuration of an NLP engine"):
        cleaned(tmp_path, [text], ner="presidio", presidio_conf=str(tmp_path / "engine.yaml"))


@pytest.fixture(scope="module")
def namer(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned that five words are people and five are places."""
    folder = tmp_path_factory.mktemp("namer")
    people, places = ("fever", "cough", "rash", "pain", "wheeze"), ("walk", "smile", "rest", "diet", "sleep")
    others = ("patient", "today", "has", "some", "and", "the", "note", "very", "again", "mild", "a", "1", ".", "@")
    draw = random.Random(0)
    rows = []
    for _ in range(400):
        tokens = draw.choices(people + places + others, k=draw.randint(4, 10))
        labels = ["B-PER" if t in people else "B-LOC" if t in places else "O" for t in tokens]
        rows.append({"tokens": tokens, "labels": labels})
    stack = {
        "name": "namer",
        "data": {"train": write_rows(folder / "t.jsonl", rows)},
        "model": {"base": str(tiny("bert")), "task": "token-classification"},
        "tune": "full",
        "train": {"max_steps": 150, "batch_size": 16, "learning_rate": 0.02},
        "output": str(folder / "runs"),
    }
    return execute(Stack.load(stack)).folder


def test_a_run_that_learned_names_finds_them(namer: Path, tmp_path: Path) -> None:
    long = "the note has some patient again . " * 20
    texts = ["today fever has some diet and note", f"{long}cough {long}", "", "jo@example.org and rash", "very mild"]
    texts[2] = " . "
    assert cleaned(tmp_path, texts, ner=str(namer)) == [
        "today <PERSON> has some <PLACE> and note",
        f"{long}<PERSON> {long}",
        " . ",
        "<EMAIL> and <PERSON>",
        "very mild",
    ]
    assert cleaned(tmp_path, texts[:1], ner=str(namer / "model"), entities=["place"]) == [
        "today fever has some <PLACE> and note"
    ]
    (made,) = cleaned(tmp_path, ["fever has fever and cough"], ner=str(namer), replacement="surrogate")
    one, _, other, _, third = made.split()
    assert one == other != third
    assert "fever" not in made


def test_words_keep_their_number(namer: Path, tmp_path: Path) -> None:
    rows = [{"tokens": ["today", "fever", "jo@example.org", "walk"], "labels": ["O", "B-PER", "O", "B-LOC"]}] * 4
    stack = {
        "name": "words",
        "data": {name: write_rows(tmp_path / f"{name}.jsonl", rows) for name in ("train", "validation")},
        "model": {"base": str(namer), "task": "token-classification"},
        "privacy": {"use": "pii", "ner": str(namer)},
        "output": str(tmp_path / "runs"),
    }
    run = execute(Stack.load(stack))
    assert run.data["validation"][0]["tokens"] == ["today", "<PERSON>", "<EMAIL>", "<PLACE>"]
    told = (run.folder / "evidence" / "privacy.json").read_text()
    assert "by patterns with check digits and a token-classification model" in told
    assert "person, phone, place" in told


def test_a_model_that_cannot_serve_is_refused(namer: Path, tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not one that classifies tokens"):
        cleaned(tmp_path, ["x"], ner=str(tiny_bert))
    with pytest.raises(ConfigError, match="holds no model of transformers"):
        cleaned(tmp_path, ["x"], ner=str(tmp_path / "absent"))
    other = shutil.copytree(namer / "model", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    names = {key: label.replace("PER", "WHO") for key, label in config["id2label"].items()}
    config |= {"id2label": names, "label2id": {label: int(key) for key, label in names.items()}}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"no label for person .*say in ner_labels"):
        cleaned(tmp_path, ["x"], ner=str(other))
    meant = {"ner": str(other), "ner_labels": {"WHO": "person"}}
    assert cleaned(tmp_path, ["today fever"], **meant) == ["today <PERSON>"]
    shutil.copy(other / "model.safetensors", other / "adapter.safetensors")
    with pytest.raises(ConfigError, match=r"a part that transformers does not attach \(adapter.safetensors\)"):
        cleaned(tmp_path, ["x"], **meant)

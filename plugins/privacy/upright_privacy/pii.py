"""Personal data is found by patterns with validators, names and places by a model; all is replaced before training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from upright import Decisions, Run, Scope, Section, Step, hook
from upright.errors import NoKeyError
from upright.objects import Text

if TYPE_CHECKING:
    from upright_privacy.patterns import Hit
    from upright_privacy.token_classifier import Ner
    from upright_privacy.vault import Vault

Entity = Literal[
    "email", "phone", "card", "iban", "national-id", "passport", "ip", "url", "chinese-name", "person", "place"
]
NAMED = ("person", "place")
STRUCTURED = ("email", "phone", "card", "iban", "national-id", "passport", "ip", "url", "chinese-name")
TEXTS = ("text", "text_pair", "prompt", "completion")
ROWS = 1000
"""Rows whose texts are read at once."""

New = Callable[[str, str], str]
"""Kind and value -> what takes its place."""


class Pii(Step):
    """Replace what identifies people: addresses and numbers by patterns, names and places by a model.

    Row by row, on every split alike, so that serving sees the same text. Chinese names are found where a label or a title
    stands beside them; any other name or place needs `ner`.
    """

    entities: list[Entity] | None = Field(
        None, min_length=1, description="What to replace; by default everything that can be found with these settings."
    )
    replacement: Literal["mask", "surrogate", "hash", "vault"] = Field(
        "mask",
        description="mask: `<EMAIL>`; surrogate: a made-up value of the same shape, one for each entity of a record; hash: "
        "`<EMAIL:3f2a…>`, the same for the same value under your key; vault: such a token, its value sealed in vault.jsonl.",
    )
    ner: Literal["presidio"] | Path | None = Field(
        None,
        description="What finds names and places: the folder of a token-classification model or of a run that made one, or "
        "presidio.",
    )
    ner_labels: dict[str, Literal["person", "place"]] = Field(
        {}, description="What the model's labels mean, where they are not the usual ones (PER, LOC, ...)."
    )
    presidio_conf: Path | None = Field(
        None, description="presidio: its NLP engine's YAML file; without it Presidio brings its patterns only."
    )
    key_env: str = Field(
        "UPRIGHT_KEY", min_length=1, description="Environment variable with your key: 32 bytes in base64 or hex."
    )
    key_file: Path | None = Field(
        None,
        description="File with your key, as such text or 32 raw bytes; where it is not there, the variable counts.",
    )

    @model_validator(mode="after")
    def _can_be_found(self) -> Pii:
        asked = [kind for kind in self.entities or () if kind in NAMED]
        if asked and self.ner is None:
            raise ValueError(f"entities: {asked[0]} needs a model that finds it; name one in ner")
        if asked and self.ner == "presidio" and self.presidio_conf is None:
            raise ValueError(
                f"entities: {asked[0]} is nothing that Presidio finds without an NLP engine; name one in presidio_conf, or a "
                "model's folder in ner"
            )
        if isinstance(self.ner, Path) and self.entities and not asked:
            raise ValueError("ner finds person and place; ask for one of them in entities, or leave ner out")
        if self.presidio_conf and self.ner != "presidio":
            raise ValueError("presidio_conf goes with ner: presidio")
        if self.ner_labels and not isinstance(self.ner, Path):
            raise ValueError("ner_labels goes with a model's folder in ner")
        return self

    @property
    def kinds(self) -> frozenset[str]:
        """What is replaced."""
        if self.entities:
            return frozenset(self.entities)
        names = isinstance(self.ner, Path) or self.presidio_conf is not None
        return frozenset((*STRUCTURED, *NAMED) if names else STRUCTURED)

    @property
    def scope(self) -> Scope:  # type: ignore[override]
        """Row by row; surrogates follow from the user's key, where there is none from one that is thrown away."""
        return Scope(row_local=True, deterministic=self.replacement != "surrogate")

    @hook
    def clean(self, rows: Any, split: str, run: Run) -> Decisions:
        from upright_privacy.patterns import find

        decisions = Decisions()
        kinds, named, vault = self.kinds, self._ner(run), self._vault(run)
        replaced = self._replacement(run, vault)
        columns = [name for name in (*TEXTS, "tokens") if name in rows.column_names]
        for chunk in _chunks(rows.select_columns(["row_id", *columns])):
            texts = [_text(row[column]) for row in chunk for column in columns]
            others = iter(named(texts) if named else [[]] * len(texts))
            for row in chunk:
                found = {
                    column: _found(row[column], lambda text, hits: find(text, kinds, hits), next(others))
                    for column in columns
                }
                self._decide(decisions, row, {column: hits for column, hits in found.items() if any(hits)}, replaced)
        if vault is not None:
            vault.save()
        return decisions

    def _decide(self, decisions: Decisions, row: Any, found: dict[str, list[list[Hit]]], replaced: Any) -> None:
        """One edit of a row: the hits of each column, word by word where it holds words."""
        if not found:
            return
        texts = {column: row[column] if isinstance(row[column], list) else [row[column]] for column in found}
        values = [
            (hit.kind, text[hit.start : hit.end])
            for column in found
            for text, hits in zip(texts[column], found[column], strict=True)
            for hit in hits
        ]
        new = replaced(row["row_id"], values)
        changed = {
            column: [_put(text, hits, new) for text, hits in zip(texts[column], found[column], strict=True)]
            for column in found
        }
        decisions.add(
            row["row_id"],
            "edit",
            f"pii:{'+'.join(dict.fromkeys(kind for kind, _ in values))}",
            spans=[(hit.start, hit.end) for hits in found.values() for word in hits for hit in word],
            values={column: text if isinstance(row[column], list) else text[0] for column, text in changed.items()},
        )

    @hook
    def report(self, run: Run) -> Section:
        by = (
            ""
            if self.ner is None
            else " and Presidio"
            if self.ner == "presidio"
            else " and a token-classification model"
        )
        found = ", ".join(sorted(self.kinds))
        told = f"Replaced on every split ({self.replacement}), by patterns with check digits{by}: {found}."
        if "person" not in self.kinds:
            told += " Names were not looked for, but Chinese ones beside a label or a title."
        if self.replacement == "vault":
            told += f" The values are sealed in steps/{run.key(self)}/vault.jsonl."
        return Section("Personal data", [Text(told)])

    # --- what finds and what replaces -------------------------------------------------------------------------------

    def _ner(self, run: Run) -> Ner | None:
        """What finds names; loaded for one split, so that it is not in the way of the model that is trained."""
        if self.ner is None:
            return None
        placed = run.stack.placed(self)
        told = f"{placed.where}  {placed}"
        if isinstance(self.ner, Path):
            from upright_privacy.token_classifier import token_classifier

            folder, kinds = run.stack.root / self.ner.expanduser(), self.kinds & set(NAMED)
            return token_classifier(folder, dict(self.ner_labels), kinds, run.device, f"{told}.ner")
        from upright_privacy.presidio import presidio

        conf = run.stack.root / self.presidio_conf.expanduser() if self.presidio_conf else None
        return presidio(conf, self.kinds, told)

    def _vault(self, run: Run) -> Vault | None:
        if self.replacement != "vault":
            return None
        from upright_privacy.vault import Vault

        return Vault(run.step_folder(self) / "vault.jsonl", self._key(run))

    def _replacement(self, run: Run, vault: Vault | None) -> Callable[[str, list[tuple[str, str]]], New]:
        """A record's id and all that was found in it -> what each value becomes."""
        if vault is not None:
            return lambda record, values: lambda kind, value: vault.token(_tag(kind), kind, value)
        if self.replacement == "hash":
            from upright_privacy.surrogates import entity
            from upright_privacy.user_key import derived
            from upright_privacy.vault import digest

            key = derived(self._key(run), "hash")
            return lambda record, values: lambda kind, value: f"<{_tag(kind)}:{digest(key, kind, entity(kind, value))}>"
        if self.replacement == "surrogate":
            return self._surrogates(run)
        return lambda record, values: lambda kind, value: f"<{_tag(kind)}>"

    def _surrogates(self, run: Run) -> Callable[[str, list[tuple[str, str]]], New]:
        from upright_privacy.surrogates import Surrogates
        from upright_privacy.user_key import derived

        key = derived(self._key(run, needed=False) or os.urandom(32), "surrogates")

        def made_up(record: str, values: list[tuple[str, str]]) -> New:
            new = Surrogates(key, record)
            new.meet([value for kind, value in values if kind == "person"])
            return new

        return made_up

    def _key(self, run: Run, needed: bool = True) -> bytes:
        from upright_privacy.user_key import missing, user_key

        placed = run.stack.placed(self)
        file = run.stack.root / self.key_file.expanduser() if self.key_file else None
        key = user_key(self.key_env, file, f"{placed.where}  {placed}")
        if key is None and needed:
            raise NoKeyError(
                f"{placed.where}  {placed}: replacement: {self.replacement} needs a key: "
                f"{missing(self.key_env, self.key_file)}"
            )
        return key.secret if key else b""


def _tag(kind: str) -> str:
    return "PERSON" if kind == "chinese-name" else kind.upper()


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else value or ""


def _chunks(rows: Any) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), ROWS):
        yield rows.select(range(start, min(start + ROWS, len(rows)))).to_list()


def _found(value: Any, find: Callable[[str, list[Hit]], list[Hit]], named: list[Hit]) -> list[list[Hit]]:
    """The hits of a text (a list of one), or of each of its words; ``named`` counts in the words joined by spaces."""
    if not isinstance(value, list):
        return [find(value, named)] if value else [[]]
    found, start = [], 0
    for word in value:
        inside = [
            hit._replace(start=0, end=len(word)) for hit in named if hit.start < start + len(word) and start < hit.end
        ]
        found.append(find(word, inside[:1]))
        start += len(word) + 1
    return found


def _put(text: str, hits: list[Hit], new: New) -> str:
    for hit in reversed(hits):
        text = text[: hit.start] + new(hit.kind, text[hit.start : hit.end]) + text[hit.end :]
    return text

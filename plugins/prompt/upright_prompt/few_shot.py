"""Demonstrations before the question (Brown et al., 2020, arXiv:2005.14165); nearest: Liu et al. (2022, arXiv:2101.06804)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from pydantic import Field, PrivateAttr, field_validator, model_validator

from upright import Capability, Section, Step, hook
from upright.errors import ConfigError
from upright.objects import Table, Text
from upright_prompt.demonstrations import Demonstration, Pool, without_own
from upright_prompt.fitting import count, fit
from upright_prompt.rendering import as_text, fields
from upright_prompt.retrieve import Retrieve
from upright_prompt.rows import INPUTS, asked, check_names, columns, normal, room, told, unrendered

if TYPE_CHECKING:
    from upright import Run

ANSWERS = ("label", "completion")
SHOTS = 4

Piece = tuple[str, str | None]
"""Words of a template and the column after them."""


@dataclass
class Prepared:
    """All that `prompt` looks up, and as evidence: (demonstrations lost, own text cut) of records that did not fit."""

    pool: Pool
    lost: dict[tuple[str, ...], tuple[int, bool]] = field(default_factory=dict)


class FewShot(Step):
    """Put solved examples from train before every record, never one of validation or test, and never the record itself.

    `template` writes an example and the question alike: `Review: {text} Sentiment: {label}`, with `{completion}` in place
    of `{label}` for rows of `prompt` and `completion`. What is drawn follows from the seed, whatever the order of rows.
    Where the whole does not fit the model's window, the first examples are left out, then the question's text is cut; the
    report counts both. No training is needed.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset(
        {"text-classification", "text-generation", "text2text-generation"}
    )

    template: str = Field(description="How an example reads; the question ends where its `{label}` would stand.")
    label_words: dict[str, str] = Field(
        default_factory=dict, description="Label: the word for it; default: the label's own name, `_` as a blank."
    )
    shots: int | None = Field(None, ge=1, description="Examples before a record; default: 4, or all that are given.")
    selection: Literal["fixed", "random", "balanced", "nearest"] = Field(
        "random", description="balanced: the classes in turn; nearest: by cosine of embeddings, the nearest one last."
    )
    examples: list[dict[str, Any]] = Field(
        default_factory=list, description="The examples of `selection: fixed`, with the data's columns and the label."
    )
    separator: str = Field("\n\n", description="Between two examples, and before the question.")
    label_in_query: Literal["cut", "mask"] = Field(
        "cut", description="mask: the mask token stands in the question's `{label}`, and what follows it stays."
    )

    _prepared: WeakKeyDictionary[Any, Prepared] = PrivateAttr(default_factory=WeakKeyDictionary)

    @field_validator("template")
    @classmethod
    def _asks(cls, template: str) -> str:
        try:
            found = fields(template)
        except ValueError as error:
            raise ValueError(f"is no template ({error}); write a brace that is meant as one twice") from error
        answers = [name for name in found if name in ANSWERS]
        if len(answers) != 1:
            raise ValueError("needs exactly one `{label}` (or `{completion}`), where the answer goes")
        if found[0] in ANSWERS:
            raise ValueError(f"names no column before {{{answers[0]}}}, so that every question would read the same")
        return template

    @model_validator(mode="after")
    def _given(self) -> FewShot:
        if bool(self.examples) != (self.selection == "fixed"):
            raise ValueError("`examples` and `selection: fixed` go together; give both or neither")
        for number, example in enumerate(self.examples, 1):
            for name in fields(self.template):
                if example.get(name) is None:
                    raise ValueError(f"example {number} has no {name!r}, which the template shows; add it")
        if self.examples and (self.shots or 0) > len(self.examples):
            raise ValueError(
                f"shots: {self.shots} is more than the {len(self.examples)} examples; add some or lower it"
            )
        return self

    @property
    def breaks(self) -> frozenset[Capability]:  # type: ignore[override]
        """A drawn example makes one training record's loss depend on another; a given one does not."""
        return frozenset() if self.selection == "fixed" else frozenset({Capability.INDEPENDENT_RECORDS})

    @property
    def reads_private(self) -> bool:  # type: ignore[override]
        """Whether training records are shown."""
        return self.selection != "fixed"

    # --- the moments ------------------------------------------------------------------------------------------------

    @hook
    def prepare(self, run: Run) -> None:
        """Choose what may be shown. Raises ConfigError where an example would show validation or test."""
        where = told(self, run)
        unrendered(self, run, (Retrieve,))
        self._check(run, where)
        held = self._held_out(run)
        pool = self._examples(held, where) if self.selection == "fixed" else self._training(run, held, where)
        if self.selection in ("random", "balanced"):
            pool.shuffle(run.generator(self), by_class=self.selection == "balanced")
        if self.selection == "nearest":
            rows = [self._values(row) for split in run.data for row in self._rows(run, split)]
            pool.nearest = pool.find({self._key(values): values for values in rows}, run.embed)
        self._prepared[run] = Prepared(pool)
        if pool.held_out:
            what = f"{pool.held_out} training rows are never shown: their text also stands in validation or test"
            run.emit("warning", message=f"{where}: {what}")

    @hook
    def prompt(self, record: dict[str, Any], run: Run) -> dict[str, Any]:
        ready = self._prepared[run]
        record = self._with_blank(record, run)
        text, lost, cut = self._render(record, ready.pool, run)
        if lost or cut:
            self._note(record, ready, run, lost, cut)
        changed = {**record, "prompt" if self._answer == "completion" else "text": text}
        return {**changed, "text_pair": None} if "text_pair" in changed else changed

    @hook
    def report(self, run: Run) -> Section:
        ready = self._prepared[run]
        pool = ready.pool
        how = f"{pool.shots} demonstrations before each record, selection: {self.selection}, of {len(pool.members)} "
        how += "given examples." if self.selection == "fixed" else "training records."
        if pool.held_out:
            how += f" {pool.held_out} training records are never shown: their text also stands in validation or test."
        if pool.repeated:
            how += f" {pool.repeated} more have the text of another."
        if pool.turns and not run.private:
            rows = ", ".join(member.name for member in pool.in_turn(""))
            how += f" Shown are the training rows {rows}, and the next one before a row that is one of them."
        header = ["split", "rows", "rows that lost demonstrations", "demonstrations lost", "rows cut"]
        # A count of training records would be outside the privacy that a private run accounts for.
        splits = [split for split in run.data if not (run.private and split == "train")]
        return Section(
            "Few-shot prompts", [Text(how), Table(header, [self._losses(ready, run, split) for split in splits])]
        )

    # --- which examples ---------------------------------------------------------------------------------------------

    @property
    def _pieces(self) -> list[Piece]:
        return [(words, name) for words, name, _, _ in Formatter().parse(self.template)]

    @property
    def _answer(self) -> str:
        return next(name for name in fields(self.template) if name in ANSWERS)

    @property
    def _columns(self) -> list[str]:
        return [name for name in dict.fromkeys(fields(self.template)) if name not in ANSWERS]

    def _check(self, run: Run, where: str) -> None:
        check_names(self._columns, columns(run), where)
        expected = "completion" if asked(run) == "prompt" else "label"
        if self._answer != expected or (expected == "label" and run.config.model.task != "text-classification"):
            generates = run.config.model.task.endswith("generation")
            needed = "rows of `prompt` and `completion`, and {completion}" if generates else "{label}"
            raise ConfigError(
                f"{where}: the template's {{{self._answer}}} is no answer that these rows of model.task: "
                f"{run.config.model.task} have; use {needed}"
            )
        labels = [*self.label_words, *(str(example["label"]) for example in self.examples if expected == "label")]
        unknown = next((label for label in labels if label not in run.labels), None)
        if unknown is not None:
            there = ", ".join(run.labels[:9]) or "no labels here"
            raise ConfigError(f"{where}: {unknown!r} is no label of the data (there are {there}); correct it")
        if self.selection == "balanced" and expected != "label":
            raise ConfigError(f"{where}: selection: balanced needs classes, and completions have none; choose random")
        if self.label_in_query == "mask" and run.tokenizer.mask_token is None:
            raise ConfigError(
                f"{where}: label_in_query: mask needs a masked language model, and the base has no mask "
                "token; choose cut"
            )
        if self.selection != "fixed" and "train" not in run.data:
            raise ConfigError(
                f"{where}: selection: {self.selection} draws from training rows and the stack names none; give data.train "
                "or selection: fixed with examples"
            )

    def _key(self, values: Mapping[str, str]) -> str:
        """The normal form of what a record asks: its own texts, or where none is shown, every column that is."""
        own = [name for name in self._columns if name in INPUTS] or self._columns
        return "\0".join(normal(values[name]) for name in own)

    def _values(self, record: Mapping[str, Any]) -> dict[str, str]:
        return {name: as_text(record[name]) for name in self._columns}

    def _rows(self, run: Run, split: str) -> Iterator[dict[str, Any]]:
        wanted = [*self._columns, self._answer, "row_id"]
        yield from run.data[split].select_columns(wanted)

    def _held_out(self, run: Run) -> dict[str, tuple[str, str]]:
        """Key of each text of validation and test -> (split, row_id)."""
        splits = [split for split in run.data if split != "train"]
        return {
            self._key(self._values(row)): (split, row["row_id"]) for split in splits for row in self._rows(run, split)
        }

    def _demonstration(self, name: str, record: Mapping[str, Any]) -> Demonstration:
        values, label = self._values(record), as_text(record[self._answer])
        word = label if self._answer == "completion" else self.label_words.get(label, label.replace("_", " "))
        text = _write(self._pieces, {**values, self._answer: word})
        return Demonstration(name, self._key(values), values, label, text)

    def _examples(self, held: dict[str, tuple[str, str]], where: str) -> Pool:
        members = [self._demonstration(str(n), example) for n, example in enumerate(self.examples[: self.shots], 1)]
        for member in members:
            if member.key in held:
                split, row_id = held[member.key]
                raise ConfigError(
                    f"{where}: example {member.name} has the text of row {row_id} of {split}, so the model would be shown "
                    "what it is tested on; choose another example"
                )
        return Pool(members, len(members))

    def _training(self, run: Run, held: dict[str, tuple[str, str]], where: str) -> Pool:
        members: dict[str, Demonstration] = {}
        held_out = repeated = 0
        for row in sorted(self._rows(run, "train"), key=lambda row: row["row_id"]):
            member = self._demonstration(row["row_id"], row)
            held_out += member.key in held
            repeated += member.key in members
            if member.key not in held:
                members.setdefault(member.key, member)
        shots = self.shots or SHOTS
        if len(members) < shots:
            raise ConfigError(
                f"{where}: asks for {shots} demonstrations and train has {len(members)} different texts that are not in "
                "validation or test; lower shots or add rows"
            )
        return Pool(list(members.values()), shots, held_out, repeated)

    def _chosen(self, values: Mapping[str, str], pool: Pool, run: Run) -> list[str]:
        """The demonstrations of a record as they read, the one that stands next to it last."""
        key = self._key(values)
        if self.selection == "fixed":
            chosen = without_own(pool.members, key)
        elif self.selection == "nearest":
            chosen = pool.neighbours(key, values, run.embed)
        else:
            chosen = pool.in_turn(key)
        return [member.text for member in chosen]

    # --- how it reads -----------------------------------------------------------------------------------------------

    def _identity(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        completion = as_text(record.get("completion")) if self._answer == "completion" else ""
        return (*self._values(record).values(), completion)

    def _with_blank(self, record: dict[str, Any], run: Run) -> dict[str, Any]:
        """The blank that is cut before `{completion}` begins the completion, so that it reads as in the examples.

        An encoder-decoder's completion stands alone, and some tokenizers put a blank before every text themselves.
        """
        if run.config.model.task != "text-generation" or record.get("completion") is None:
            return record
        words = next(words for words, name in self._pieces if name == "completion")
        blank = words[len(words.rstrip()) :]
        own = run.tokenizer.tokenize("x")[:1] == ["▁x"]
        if self.label_in_query == "mask" or not blank or (own and blank == " "):
            return record
        return {**record, "completion": blank + record["completion"]}

    def _question(self, values: Mapping[str, str], run: Run) -> str:
        if self.label_in_query == "mask":
            return _write(self._pieces, {**values, self._answer: str(run.tokenizer.mask_token)})
        place = next(n for n, (_, name) in enumerate(self._pieces) if name == self._answer)
        return _write([*self._pieces[:place], (self._pieces[place][0], None)], values).rstrip()

    def _render(self, record: Mapping[str, Any], pool: Pool, run: Run) -> tuple[str, int, bool]:
        """The record's prompt, how many demonstrations it lost to the window, and whether its own text was cut."""
        values, window = self._values(record), room(record, run)
        texts = self._chosen(values, pool, run)
        question = self._question(values, run)

        def whole(kept: int) -> str:
            return self.separator.join([*texts[len(texts) - kept :], question])

        def fits(kept: int) -> bool:
            return count(run.tokenizer, whole(kept)) <= window

        if fits(len(texts)):
            return whole(len(texts)), 0, False
        if not fits(0):
            try:
                text, cut = fit(lambda some: self._question(some, run), values, run.tokenizer, window)
            except ConfigError as error:
                raise ConfigError(f"{told(self, run)}: {error}") from error
            return text, len(texts), bool(cut)
        low, high = 0, len(texts) - 1  # `low` is known to fit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return whole(low), len(texts) - low, False

    def _note(self, record: Mapping[str, Any], ready: Prepared, run: Run, lost: int, cut: bool) -> None:
        if not ready.lost:
            what = "a row has fewer demonstrations" + (" and its own text is cut" if cut else "")
            run.emit(
                "warning",
                message=f"{told(self, run)}: {what} because the model's window holds {run.max_length} tokens; how many rows "
                "are concerned is counted in the report",
            )
        ready.lost[self._identity(record)] = (lost, cut)

    def _losses(self, ready: Prepared, run: Run, split: str) -> list[Any]:
        rows = [self._with_blank(row, run) for row in self._rows(run, split)]
        found = [ready.lost.get(self._identity(row), (0, False)) for row in rows]
        lost = [number for number, _ in found if number]
        return [split, len(rows), len(lost), sum(lost), sum(cut for _, cut in found)]


def _write(template: Iterable[Piece], values: Mapping[str, str]) -> str:
    return "".join(words + (values[name] if name is not None else "") for words, name in template)

"""Passages for a question (Lewis et al., 2020, arXiv:2005.11401), by BM25 (Robertson and Zaragoza, 2009) or embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from pydantic import Field, PrivateAttr, field_validator

from upright import Section, Step, hook
from upright.errors import ConfigError, PluginError
from upright.objects import Table, Text
from upright_prompt.documents import Document, digest, read
from upright_prompt.fitting import count
from upright_prompt.rendering import as_text, fields, readable
from upright_prompt.rows import INPUTS, asked, best, check_names, columns, normal, told, unrendered, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from upright import Run

RANKS = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): 1 / (60 + rank)."""
DEPTH = 100
"""How far down each of two rankings is read when they are fused."""
BLOCK = 1024
EXAMPLES = 5

Found = list[tuple[int, float]]
"""(place of a document, score), best first."""


@dataclass
class Index:
    """The documents, what is needed to score a query against them, and what was found for the data's queries."""

    documents: list[Document]
    sha256: str
    query: str
    bm25: Any = None
    embeddings: np.ndarray | None = None
    found: dict[str, Found] = field(default_factory=dict)


class Retrieve(Step):
    """Add a column with the passages of your documents that are closest to a record, for a `template` after it.

    `bm25` counts words (lower case, no stemming; k1 = 1.5, b = 0.75) and leaves out documents that share no word with the
    record; `embedding` takes the cosine of the untuned base's embeddings; `hybrid` fuses both rankings by reciprocal
    rank. Which documents each row was given stands in `steps/<step>/sources.parquet`. A document that is a row of
    validation or test is refused.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset(
        {"text-classification", "text-generation", "text2text-generation"}
    )

    documents: Path = Field(
        description="A .txt (passages between blank lines), a .jsonl (`text`, maybe `id` and `title`), or a folder of .txt."
    )
    method: Literal["bm25", "embedding", "hybrid"] = Field(
        "bm25", description="How documents are ranked; bm25 and hybrid need `pip install 'upright-prompt[retrieve]'`."
    )
    k: int = Field(3, ge=1, description="Documents for each record, at most.")
    query: str | None = Field(
        None, description="What is searched for; default: `{text}`, or `{prompt}` where rows have one."
    )
    column: str = Field("context", description="The column that holds what was found.")
    separator: str = Field("\n\n", description="Between two documents.")

    _indexes: WeakKeyDictionary[Any, Index] = PrivateAttr(default_factory=WeakKeyDictionary)

    @field_validator("query")
    @classmethod
    def _asks(cls, query: str | None) -> str | None:
        return query if query is None else readable(query)

    @field_validator("column")
    @classmethod
    def _named(cls, column: str) -> str:
        if not column.isidentifier():
            raise ValueError(f"{column!r} cannot stand in a template; use letters, digits and '_'")
        return column

    # --- the moments ------------------------------------------------------------------------------------------------

    @hook
    def prepare(self, run: Run) -> None:
        """Read, index, and look up the queries of every split."""
        where = told(self, run)
        unrendered(self, run, (Retrieve,))
        query = self.query or f"{{{asked(run)}}}"
        check_names(fields(query), columns(run), where)
        if self.column in next(iter(run.data.values())).column_names:
            raise ConfigError(f"{where}: the data has a column {self.column!r} already; set `column` to another name")
        path = self._path(run)
        documents = read(path, where)
        self._no_leak(documents, run, where)
        index = self._indexes[run] = Index(documents, digest(path), query)
        self._unchanged(index, run, where)
        texts = [document.whole for document in documents]
        if self.method != "embedding":
            index.bm25 = _bm25(texts, where)
        if self.method != "bm25":
            index.embeddings = run.embed(texts)
            long = sum(count(run.tokenizer, text) > run.max_length for text in texts)
            if long:
                what = f"{long} of {len(texts)} documents are longer than the model's {run.max_length} tokens"
                run.emit("warning", message=f"{where}: {what}, so only their beginnings are compared; split them")
        if self.k > len(documents):
            run.emit(
                "warning", message=f"{where}: k: {self.k} is more than the {len(documents)} documents; all are used"
            )
        asking = dict.fromkeys(self._query(row, index) for split in run.data for row in self._rows(run, split, index))
        index.found = self._search(list(asking), index, run)

    @hook
    def prompt(self, record: dict[str, Any], run: Run) -> dict[str, Any]:
        index = self._indexes[run]
        query = self._query(record, index)
        found = index.found.get(query)
        if found is None:
            found = self._search([query], index, run)[query]
        return {**record, self.column: self.separator.join(index.documents[place].whole for place, _ in found)}

    @hook
    def save(self, folder: Path, run: Run) -> None:
        """``sources.parquet``: split, row_id, rank (from 1), document, score."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        lines = [line for split in run.data if split != "train" for line in self._sources(run, split)]
        fields = [("split", pa.string()), ("row_id", pa.string()), ("rank", pa.int32())]
        schema = pa.schema([*fields, ("document", pa.string()), ("score", pa.float64())])
        pq.write_table(pa.Table.from_pylist(lines, schema=schema), folder / "sources.parquet", compression="zstd")

    @hook
    def report(self, run: Run) -> Section:
        index = self._indexes[run]
        blocks: list[Text | Table] = [
            Text(
                f"{len(index.documents)} documents (SHA-256 {index.sha256}); {self.method} finds up to "
                f"{min(self.k, len(index.documents))} for each row. All of them: steps/{run.key(self)}/sources.parquet."
            )
        ]
        counts = []
        for split in [split for split in run.data if split != "train"]:
            sizes = [len(index.found[self._query(row, index)]) for row in self._rows(run, split, index)]
            counts.append([split, len(sizes), sum(sizes) / max(len(sizes), 1), sizes.count(0)])
        blocks.append(Table(["split", "rows", "documents per row", "rows without any"], counts))
        if counts:
            lines = self._sources(run, counts[-1][0])
            examples = [[line["row_id"], line["rank"], line["document"], line["score"]] for line in lines]
            rows = dict.fromkeys(line[0] for line in examples)
            chosen = set(list(rows)[:EXAMPLES])
            blocks.append(Table(["row", "rank", "document", "score"], [line for line in examples if line[0] in chosen]))
        return Section("Retrieved documents", blocks)

    # --- what is read -----------------------------------------------------------------------------------------------

    def _path(self, run: Run) -> Path:
        """Kept, because a resumed run reads its stack from another folder."""
        path = run.stack.root / self.documents.expanduser()
        return Path(run.keep(self, "documents", lambda: {"path": str(path.resolve())})["path"])

    def _unchanged(self, index: Index, run: Run, where: str) -> None:
        kept = run.keep(self, "documents", dict)
        if kept.setdefault("sha256", index.sha256) != index.sha256:
            raise ConfigError(
                f"{where}: {kept['path']} has changed since this run began; put it back or start a new run without --resume"
            )

    def _rows(self, run: Run, split: str, index: Index) -> Iterator[dict[str, Any]]:
        yield from run.data[split].select_columns([*dict.fromkeys(fields(index.query)), "row_id"])

    def _query(self, record: Mapping[str, Any], index: Index) -> str:
        return index.query.format(**{name: as_text(record[name]) for name in fields(index.query)})

    def _no_leak(self, documents: list[Document], run: Run, where: str) -> None:
        known = {normal(document.text): document for document in documents}
        known |= {normal(document.whole): document for document in documents}
        for split in [split for split in run.data if split != "train"]:
            own = [name for name in INPUTS if name in run.data[split].column_names]
            for row in run.data[split].select_columns([*own, "row_id"]):
                for name in own:
                    document = known.get(normal(as_text(row[name])))
                    if document is not None and row[name]:
                        raise ConfigError(
                            f"{where}: document {document.id!r} ({document.where}) is the {name} of row {row['row_id']} of "
                            f"{split}, so the model would read what it is tested on; remove the document"
                        )

    def _sources(self, run: Run, split: str) -> list[dict[str, Any]]:
        index = self._indexes[run]
        return [
            {
                "split": split,
                "row_id": row["row_id"],
                "rank": rank,
                "document": index.documents[place].id,
                "score": score,
            }
            for row in self._rows(run, split, index)
            for rank, (place, score) in enumerate(index.found[self._query(row, index)], 1)
        ]

    # --- what is found ----------------------------------------------------------------------------------------------

    def _search(self, queries: list[str], index: Index, run: Run) -> dict[str, Found]:
        depth = self.k if self.method != "hybrid" else max(self.k, DEPTH)
        by_words = [_by_words(query, index, depth) for query in queries] if self.method != "embedding" else []
        by_sense = _by_sense(queries, index, run, depth) if self.method != "bm25" else []
        if self.method == "hybrid":
            found = [_fused(*both)[: self.k] for both in zip(by_words, by_sense, strict=True)]
        else:
            found = by_words or by_sense
        return dict(zip(queries, found, strict=True))


def _bm25(texts: list[str], where: str) -> Any:
    """The index of `bm25s` (BM25 as Lucene has it), or None where no document holds a word."""
    try:
        import bm25s
    except ImportError as error:
        raise PluginError(
            f"{where}: needs the package bm25s; run `pip install 'upright-prompt[retrieve]'` or choose method: embedding"
        ) from error
    corpus = [words(text) for text in texts]
    if not any(corpus):
        return None
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75, dtype="float64")
    index.index(corpus, show_progress=False)
    return index


def _by_words(query: str, index: Index, count: int) -> Found:
    asked = index.bm25.get_tokens_ids(words(query)) if index.bm25 is not None else []
    if not asked:
        return []
    scores = index.bm25.get_scores_from_ids(asked)
    return [(place, float(scores[place])) for place in best(scores, count) if scores[place] > 0]


def _by_sense(queries: list[str], index: Index, run: Run, count: int) -> list[Found]:
    embedded, found = run.embed(queries), []
    for start in range(0, len(queries), BLOCK):
        for scores in embedded[start : start + BLOCK] @ index.embeddings.T:
            found.append([(place, float(scores[place])) for place in best(scores, count)])
    return found


def _fused(*rankings: Found) -> Found:
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (place, _) in enumerate(ranking, 1):
            scores[place] = scores.get(place, 0.0) + 1 / (RANKS + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))

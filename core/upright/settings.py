"""The settings of core's own sections of a stack file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Task = Literal["text-classification", "token-classification", "text-generation", "text2text-generation"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(_Settings):
    """Where the rows come from."""

    train: str | None = Field(None, description="jsonl, csv, parquet, txt, a folder of them, or hf:<dataset>[<split>].")
    validation: str | None = Field(None, description="As train; without it a tenth of train is set aside.")
    test: str | dict[str, str] | None = Field(None, description="One test split, or a mapping of names to files.")
    columns: dict[str, str] = Field(default_factory=dict, description="Our column name: the file's column name.")
    sensitive: list[str] = Field(default_factory=list, description="Columns for auditing; never a model input.")
    unit: str | None = Field(
        None, description="Column that says whose each row is (a patient): what privacy protects; never a model input."
    )
    encoding: str = Field("utf-8", description="Encoding of text files.")
    clean_workers: int = Field(1, ge=1, description="Processes in which row-local cleaners work on a large split.")
    max_characters: int = Field(1_000_000, ge=1, description="A longer text is an error that names its row.")


class ModelSettings(_Settings):
    """The model that is adapted."""

    base: str = Field("minilm", description="minilm, a folder, a run folder, or a hub id[@revision].")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub base; the same as base@revision.")
    task: Task = Field("text-classification", description="What the model is to do, in Hugging Face's words.")
    max_length: int | None = Field(None, ge=2, description="Tokens per row; default: the base's own window.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Type that the base is kept in.")
    dropout: float | None = Field(None, ge=0, lt=1, description="Of every dropout in the base; default: its config's.")
    quantize: Literal["int8", "nf4"] | None = Field(
        None, description="Keep the base's linear layers in 8 or 4 bits (bitsandbytes; needs a GPU)."
    )


class TrainSettings(_Settings):
    """The loop. Names and meanings are those of transformers.TrainingArguments."""

    epochs: float = Field(3.0, gt=0, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Number of updates; overrides epochs.")
    batch_size: int = Field(32, ge=1, description="Rows per update; in a private run: units, in expectation.")
    micro_batch_size: int = Field(32, ge=1, description="Rows per forward pass; changes memory, not results.")
    learning_rate: float | Literal["auto"] = Field(
        "auto", description="auto: 5e-5 when the base's own weights are trained, 1e-3 when only added ones are."
    )
    head_learning_rate: float | Literal["auto"] = Field("auto", description="Learning rate of the head; auto: 1e-3.")
    optimizer: Literal["adamw", "sgd", "adafactor"] = Field("adamw", description="The optimizer.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay; never on biases and norms.")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = (
        Field("linear", description="Schedule of the learning rate.")
    )
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of the updates over which the rate rises.")
    max_grad_norm: float | None = Field(1.0, gt=0, description="Norm to which the whole gradient is clipped.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations in backward: less memory, slower.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU that has it.")
    eval_strategy: Literal["epoch", "steps", "no"] = Field("epoch", description="When validation is evaluated.")
    eval_steps: int = Field(100, ge=1, description="Updates between evaluations with eval_strategy: steps.")
    load_best_model_at_end: bool = Field(True, description="Keep the iterate that `select` prefers.")
    early_stopping_patience: int | None = Field(None, ge=1, description="Stop after so many evaluations without gain.")
    save_steps: int | None = Field(None, ge=1, description="Updates between checkpoints; default: each evaluation.")
    save_total_limit: int = Field(2, ge=1, description="Checkpoints kept; older ones are removed.")
    steps: list[str | dict[str, Any]] = Field(
        default_factory=list, description="Training-time steps: a name, or `use` and settings."
    )


class AboutSettings(_Settings):
    """What only people know of a run; the report and the model card repeat it, and say what is left out."""

    purpose: str | None = Field(None, description="What the system is for, and who gains what from it.")
    decision: str | None = Field(None, description="The decision that it informs, who takes it, and about whom.")
    intended_use: str | None = Field(None, description="Where, by whom and on what input it is meant to be used.")
    out_of_scope: str | None = Field(None, description="What it is not meant for, and its known limits.")
    oversight: str | None = Field(None, description="Who can overrule it, and how.")
    groups: str | None = Field(
        None, description="Where the sensitive columns come from, and whom they leave out or get wrong."
    )
    criterion: str | None = Field(
        None, description="Which fairness criterion was chosen, which others were weighed, and why."
    )
    contact: str | None = Field(None, description="Who answers for it and can be asked.")
    compare_with: list[str] = Field(
        default_factory=list,
        description="Runs to show this one beside on the same test rows, such as its twin without a constraint: a name "
        "under output (its latest run) or a run folder.",
    )


class Settings(_Settings):
    """Core's part of a stack file; every other top-level key is a section of steps."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Names the run's folder.")
    seed: int = Field(0, ge=0, description="Every random choice of a non-private run follows from it.")
    about: AboutSettings = Field(default_factory=AboutSettings, description="What only people know of the run.")
    data: DataSettings = Field(default_factory=DataSettings, description="Where the rows come from.")
    model: ModelSettings = Field(default_factory=ModelSettings, description="The model that is adapted.")
    train: TrainSettings = Field(default_factory=TrainSettings, description="The loop.")
    output: str = Field("runs", description="Folder under which <name>/<time>-<hash>/ is made.")

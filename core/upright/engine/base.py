"""Where the base model comes from: its files, its tokenizer, its head."""

from __future__ import annotations

import json
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch.nn import Module, Parameter

from upright.engine.heads import MeanPooling
from upright.engine.source import Source, hub_json, resolve
from upright.errors import ConfigError
from upright.evidence.files import sha256
from upright.evidence.lock import read_lock

ADAPTER = "adapter"
"""The folder of an adapter in an exported model that transformers cannot attach by itself."""

if TYPE_CHECKING:
    from upright.run import Run


def load_model(run: Run) -> Module:
    """Core's answer to the ``model`` hook: the base with its task's head; sets tokenizer and max_length."""
    source = resolve(run)
    if run.labels and not run.stack.trains and not run.stack.answering("forward"):
        run.labels = _own_labels(run, source, f"{run.stack.where('model', 'base')}  model.base")
    return load_as(run, None)


def load_as(run: Run, auto: str | None) -> Module:
    """The base by the Auto class of that name (None: with its task's head); sets tokenizer and max_length."""
    source = resolve(run)
    try:
        run.tokenizer = load_tokenizer(source)
        model: Module = _with_head(run, source, auto)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _cannot_load(run, source, error) from error
    config: Any = model.config
    if run.tokenizer.pad_token is None:
        run.tokenizer.pad_token = run.tokenizer.eos_token or run.tokenizer.unk_token
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = run.tokenizer.pad_token_id
    run.max_length = run.config.model.max_length or window(run, source, config)
    if run.config.train.gradient_checkpointing:
        _checkpoint_activations(model)
    return model


def base_config(run: Run) -> Any:
    """transformers' config of the base, read without its weights."""
    from transformers import AutoConfig

    source = resolve(run)
    try:
        return AutoConfig.from_pretrained(source.location, revision=source.revision or "main")
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(run, source, error) from error


def _cannot_load(run: Run, source: Source, error: Exception) -> ConfigError:
    reason = str(error).strip().split("\n")[0]
    return ConfigError(
        f"{run.stack.where('model', 'base')}  model.base: {source.name!r} cannot be loaded ({reason}); name a folder "
        "that is there"
    )


def head_parameters(model: Module) -> list[tuple[str, Parameter]]:
    """The parameters outside the base: what the task added. None for a model that predicts tokens of its vocabulary."""
    inner: Any = unwrapped(model)
    base = getattr(inner, "base_model", None)
    if base is None or base is inner or getattr(inner, "get_output_embeddings", lambda: None)() is not None:
        return []
    own = {id(parameter) for parameter in base.parameters()}
    return [(name, p) for name, p in inner.named_parameters() if id(p) not in own]


def unwrapped(model: Any) -> Any:
    """The model inside an adapter wrapper (peft's ``get_base_model``), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def transformers_part(model: Any) -> Any:
    """The part that ``save_pretrained`` writes and the exported folder loads as: the encoder under a mean-pooling head."""
    inner = unwrapped(model)
    return inner.encoder if isinstance(inner, MeanPooling) else inner


def autocast(run: Run) -> AbstractContextManager[Any]:
    """bf16 where ``train.precision`` says so, or says auto and the GPU has it; else nothing."""
    precision = run.config.train.precision
    if precision == "bf16" or (precision == "auto" and run.device.type == "cuda" and torch.cuda.is_bf16_supported()):
        return torch.autocast(run.device.type, dtype=torch.bfloat16)
    return nullcontext()


def base_facts(run: Run) -> dict[str, Any]:
    """What lock.json says of the base: its name, revision, the SHA-256 of its weights, and the run that made it."""
    source = resolve(run)
    if source.folder is None:
        config: Any = unwrapped(run.model).config
        return {"base": source.name, "revision": source.revision, "commit": getattr(config, "_commit_hash", None)}
    weights = sorted(source.folder.glob("*.safetensors"))
    facts = {"base": Path(source.name).name, "weights": {path.name: sha256(path) for path in weights}}
    parent = run.stack.root / Path(source.name).expanduser()
    if (parent / "manifest.json").is_file():
        facts["run"] = {"run": read_lock(parent)["run"], "manifest_sha256": sha256(parent / "manifest.json")}
    return facts


def _own_labels(run: Run, source: Source, where: str) -> list[str]:
    """The classes of a head that was trained before, for a stack that trains none.

    Raises ConfigError where the base has no such head (its decisions would be chance), or does not know a label.
    """
    config = base_config(run)
    heads = ("ForSequenceClassification", "ForTokenClassification")
    headed = source.folder is not None and (source.folder / "head.safetensors").is_file()
    if not headed and not any(str(name).endswith(heads) for name in config.architectures or []):
        raise ConfigError(
            f"{where}: {source.name!r} has no trained head and no step trains one, so its decisions would be chance; "
            "add a `tune:` section or name the folder of a run"
        )
    own = [str(config.id2label[code]) for code in sorted(config.id2label)]
    unknown = next((label for label in run.labels if label not in own), None)
    if unknown is not None:
        raise ConfigError(
            f"{where}: the data's label {unknown!r} is none that {source.name!r} knows ({', '.join(own[:9])}); rename "
            "it in the data or train a head"
        )
    return own


def load_tokenizer(source: Source) -> Any:
    """The base's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.location, revision=source.revision or "main")


def _with_head(run: Run, source: Source, auto: str | None) -> Any:
    if source.folder is not None and (source.folder / ADAPTER / "adapter_config.json").is_file():
        return _merged(_built(run, source, auto), str(source.folder / ADAPTER))
    if source.folder is None or not (source.folder / "adapter_config.json").is_file():
        return _built(run, source, auto)
    with tempfile.TemporaryDirectory(prefix="upright-base-") as name:
        # The adapter of an earlier run becomes part of the base; transformers would attach it and leave it on.
        for path in source.folder.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(name) / path.name).symlink_to(path.resolve())
        model = _built(run, Source(source.name, Path(name)), auto)
    return _merged(model, source.location)


def _built(run: Run, source: Source, auto: str | None) -> Module:
    """The base with the head of its task, or by the Auto class asked for, without adapters."""
    import transformers

    options = _options(run, source)
    if auto is not None:
        model = getattr(transformers, auto).from_pretrained(source.location, **options)
    elif run.config.model.task == "text-generation":
        model = transformers.AutoModelForCausalLM.from_pretrained(source.location, **options)
    elif run.config.model.task == "text2text-generation":
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source.location, **options)
    elif run.config.model.task == "text-classification" and _mean_pools(source):
        model = MeanPooling(transformers.AutoModel.from_pretrained(source.location, **options), run.labels)
        model.classifier.to(options["dtype"])
        _load_head(model, source)
    else:
        headed = {
            "text-classification": transformers.AutoModelForSequenceClassification,
            "token-classification": transformers.AutoModelForTokenClassification,
        }[run.config.model.task]
        labels = {
            "num_labels": len(run.labels),
            "id2label": dict(enumerate(run.labels)),
            "label2id": {name: code for code, name in enumerate(run.labels)},
        }
        model = headed.from_pretrained(source.location, ignore_mismatched_sizes=True, **labels, **options)
    built: Module = model
    return built


def _options(run: Run, source: Source) -> dict[str, Any]:
    """What ``from_pretrained`` is told: files, type, dropout and bits."""
    asked = run.config.model
    revision = source.revision or "main"
    options: dict[str, Any] = {"revision": revision, "use_safetensors": True, "dtype": getattr(torch, asked.dtype)}
    if asked.dropout is not None:
        known = base_config(run).to_dict()
        options |= {name: asked.dropout for name in DROPOUTS if name in known}
    if asked.quantize is not None:
        if run.device.type != "cuda":
            raise ConfigError(
                f"{run.stack.where('model', 'quantize')}  model.quantize: {asked.quantize} needs a CUDA device and "
                "there is none here; remove it"
            )
        from transformers import BitsAndBytesConfig

        four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
        options["quantization_config"] = BitsAndBytesConfig(
            **four if asked.quantize == "nf4" else {"load_in_8bit": True}
        )
        options["device_map"] = {"": run.device}
    return options


DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "dropout_rate",
)
"""What configs of transformers call their dropouts inside the base."""


def _checkpoint_activations(model: Any) -> None:
    """Reentrant: the other way loses the gradients that hooks see. It needs inputs that require a gradient."""
    inner = model.encoder if isinstance(model, MeanPooling) else model
    inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    inner.enable_input_require_grads()
    inner.config.use_cache = False


def _merged(model: Any, adapter: str) -> Any:
    from peft import PeftModel

    target = model.encoder if isinstance(model, MeanPooling) else model
    merged = PeftModel.from_pretrained(target, adapter).merge_and_unload()
    if isinstance(model, MeanPooling):
        model.encoder = merged
        return model
    return merged


def _load_head(model: MeanPooling, source: Source) -> None:
    """The head of an earlier run, where it tells the same classes apart."""
    from safetensors.torch import load_file

    if source.folder is None or not (source.folder / "head.safetensors").is_file():
        return
    saved = load_file(source.folder / "head.safetensors")
    config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    if list(config.get("id2label", {}).values()) == list(model.config.id2label.values()):
        model.classifier.load_state_dict(saved)


def _mean_pools(source: Source) -> bool:
    if source.folder is None:
        return hub_json(source, "1_Pooling/config.json").get("pooling_mode_mean_tokens") is True
    pooling = source.folder / "1_Pooling" / "config.json"
    if (source.folder / "head.safetensors").is_file():
        return True
    return pooling.is_file() and json.loads(pooling.read_text()).get("pooling_mode_mean_tokens") is True


def window(run: Run, source: Source, config: Any) -> int:
    """Tokens per row that the base was made for."""
    lengths = [run.tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    if source.folder and (source.folder / "sentence_bert_config.json").is_file():
        lengths.append(json.loads((source.folder / "sentence_bert_config.json").read_text()).get("max_seq_length"))
    elif source.folder is None:
        lengths.append(hub_json(source, "sentence_bert_config.json").get("max_seq_length"))
    return min(int(length) for length in lengths if length)

"""model/: one flat folder that transformers loads offline, adapter and trained head included, without us."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upright.engine.base import ADAPTER, unwrapped
from upright.engine.heads import MeanPooling
from upright.evidence.sealing import new_folder, seals

if TYPE_CHECKING:
    from upright.run import Run

MEAN_POOLING_LOADER = """\
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
head = load_file(f"{folder}/head.safetensors")

def logits(texts):
    batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    mask = batch["attention_mask"].unsqueeze(-1)
    mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    return normalize(mean, dim=-1) * mean.shape[-1] ** 0.5 @ head["weight"].T + head["bias"]
"""
"""For the model card: ``folder`` is model/; ``logits(texts)`` gives ``[N, K]``."""

AUTO_LOADER = """\
from transformers import AUTO, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(folder), AUTO.from_pretrained(folder).eval()
"""

ADAPTER_LOADER = f"""\

from peft import PeftModel

model = PeftModel.from_pretrained(model, f"{{folder}}/{ADAPTER}").eval()
"""
"""Adapters that transformers does not attach by itself have a folder: those whose layers share a state, and DoRA, whose
magnitudes it drops without a word (5.23)."""

AUTO = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
}


def export_model(run: Run) -> str:
    """Write <run>/model/ through the ``export`` hook; return the lines that load it. Helpers are never in it."""
    with new_folder(run.folder / "model", run) as folder:
        lines = run.calls.export(folder, run)
    if seals(run):
        return f"# The files of model/ are sealed by {run.stack.answering('seal')[0]}: open them first.\n{lines}"
    return lines


def save_model(run: Run, folder: Path) -> str:
    """Write config, safetensors, adapter where there is one, tokenizer; return the lines that load them."""
    run.tokenizer.model_max_length = run.max_length  # who loads it cuts texts where the run did
    run.tokenizer.save_pretrained(folder)
    if hasattr(run.model, "peft_config"):
        _save_adapted(run.model, folder)
    else:
        _save_plain(run.model, folder)
    if isinstance(unwrapped(run.model), MeanPooling):
        lines = MEAN_POOLING_LOADER.replace("MAX_LENGTH", str(run.max_length))
    else:
        auto = AUTO[run.config.model.task]
        lines = AUTO_LOADER.replace("AUTO,", f"{auto},").replace("AUTO.", f"{auto}.")
    return lines + ADAPTER_LOADER if (folder / ADAPTER).is_dir() else lines


def _save_plain(model: Any, folder: Path) -> None:
    if isinstance(model, MeanPooling):
        from safetensors.torch import save_file

        head = {name: tensor.detach().cpu().contiguous() for name, tensor in model.classifier.state_dict().items()}
        model.encoder.save_pretrained(folder)
        save_file(head, folder / "head.safetensors")
    else:
        model.save_pretrained(folder)


def _save_adapted(model: Any, folder: Path) -> None:
    """The base with the trained head, and the adapter beside it: transformers puts the two together again."""
    import json

    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    inner = unwrapped(model)
    state = {name: t.detach().cpu().contiguous().clone() for name, t in get_peft_model_state_dict(model).items()}
    if isinstance(inner, MeanPooling):
        state = {name.replace("base_model.model.encoder.", "base_model.model.", 1): t for name, t in state.items()}
    name = model.active_adapter
    config = model.peft_config[name].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    config["base_model_name_or_path"] = None
    config["inference_mode"] = True
    prefix = "encoder." if isinstance(inner, MeanPooling) else ""
    listed = config["target_modules"]
    names = _adapted(inner) if listed is None or isinstance(listed, str) else listed
    config["target_modules"] = [name.removeprefix(prefix) for name in names]
    for key in config.keys() & {"feedforward_modules"}:
        config[key] = [name.removeprefix(prefix) for name in config[key] or []]
    for key in config.keys() & {"layers_to_transform", "layers_pattern", "exclude_modules"}:
        config[key] = None  # the list of layers says it
    if "init_lora_weights" in config:
        config["init_lora_weights"] = True  # what changes the base at first has changed the one that is saved
    _save_plain(copy.deepcopy(model).unload(), folder)
    if model.base_model.uses_shared_state or config.get("use_dora"):
        folder = folder / ADAPTER
        folder.mkdir()
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")


def _adapted(inner: Any) -> list[str]:
    """Names of the adapted layers, outermost: a pattern would be of the model inside the run."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return sorted(name for name, module in inner.named_modules() if isinstance(module, BaseTunerLayer))

"""Names and places by a local token-classification model of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from upright.errors import ConfigError
from upright_privacy.patterns import Hit

Ner = Callable[[list[str]], list[list[Hit]]]
"""Texts -> the hits of each."""

LABELS = {
    **dict.fromkeys("PER PERS PERSON NAME FIRST_NAME LAST_NAME GIVENNAME SURNAME PATIENT DOCTOR".split(), "person"),
    **dict.fromkeys(
        "LOC LOCATION GPE PLACE FAC ADDRESS STREET STREET_ADDRESS CITY STATE COUNTRY ZIP ZIP_CODE ZIPCODE".split(),
        "place",
    ),
}
"""What the labels of common models mean, without B- and I-."""
ROWS = 32


def token_classifier(folder: Path, labels: dict[str, str], kinds: frozenset[str], device: Any, told: str) -> Ner:
    """A model's folder, or a run's, as what finds names: words take the label of their first piece, long texts are read
    in windows that overlap by a quarter.

    ``labels`` maps the model's labels to kinds, beside `LABELS`. Raises ConfigError where the folder holds no such model
    or none of its labels stands for a kind that is asked for.
    """
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    home = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    config = _config(home, told)
    others = {path.name for path in home.glob("*.safetensors")} - {"adapter_model.safetensors"}
    odd = sorted(name for name in others if not name.startswith("model"))
    if odd:
        raise ConfigError(
            f"{told}: the model in {home} has a part that transformers does not attach ({odd[0]}); name a model that was tuned "
            "another way, such as with lora or full"
        )
    meaning = {str(label): _kind(str(label), labels) for label in config.get("id2label", {}).values()}
    for kind in sorted(kinds - set(meaning.values())):
        known = ", ".join(sorted(label for label in meaning if label != "O")[:12]) or "none"
        raise ConfigError(
            f"{told}: the model in {home} has no label for {kind} (its labels: {known}); say in ner_labels which one it is, or "
            f"leave {kind} out of entities"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(home, local_files_only=True)
        model = AutoModelForTokenClassification.from_pretrained(home, local_files_only=True, use_safetensors=True)
        if (home / "adapter").is_dir():
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(home / "adapter")).merge_and_unload()
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise ConfigError(
            f"{told}: {home} cannot be loaded ({str(error).splitlines()[0]}); name another folder"
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(f"{told}: the tokenizer in {home} knows no offsets; save it as a fast one (tokenizer.json)")
    positions = getattr(model.config, "max_position_embeddings", None) or 512
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions - 2)  # RoBERTa's begin at 2
    classify = pipeline(
        "token-classification",
        model=model.eval(),
        tokenizer=tokenizer,
        aggregation_strategy="first",
        stride=tokenizer.model_max_length // 4,
        device=device,
    )

    def find(texts: list[str]) -> list[list[Hit]]:
        order = sorted((n for n, text in enumerate(texts) if text.strip()), key=lambda n: len(texts[n]))
        found: list[list[Hit]] = [[] for _ in texts]
        for n, groups in zip(order, classify([texts[n] for n in order], batch_size=ROWS), strict=True):
            for group in groups:
                kind = _kind(group["entity_group"], labels)
                if kind in kinds:
                    found[n].append(Hit(kind, int(group["start"]), int(group["end"])))
        return found

    return find


def _config(home: Path, told: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((home / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{told}: {home} holds no model of transformers (no config.json that can be read)") from error
    if not any(name.endswith("ForTokenClassification") for name in config.get("architectures") or []):
        raise ConfigError(
            f"{told}: the model in {home} is not one that classifies tokens; name the folder of one that is"
        )
    return config


def _kind(label: str, labels: dict[str, str]) -> str:
    bare = label[2:] if label[:2] in ("B-", "I-", "E-", "S-", "L-", "U-") else label
    return labels.get(label) or labels.get(bare) or LABELS.get(bare.upper(), "")

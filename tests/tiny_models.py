"""Models small enough to be made in a test: two layers, 16 wide, random weights, a tokenizer of a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = {
    "sick": ["fever", "cough", "rash", "pain", "wheeze"],
    "well": ["walk", "smile", "rest", "diet", "sleep"],
    "other": ["patient", "today", "has", "some", "and", "the", "note", "very", "again", "mild"],
}


def make_tokenizer(folder: Path) -> int:
    """Write a tokenizer that frames a text by [CLS] and [SEP]; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:?!-'"]
    words = [word for group in WORDS.values() for word in group]
    entries = dict.fromkeys([*special, *words, *letters, *(f"##{letter}" for letter in letters)])
    vocabulary = {token: number for number, token in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=32, eos_token="[SEP]", bos_token="[CLS]", **names
    ).save_pretrained(folder)
    return len(vocabulary)


def make_model(architecture: str, folder: Path) -> Path:
    """A model of transformers and its tokenizer, in ``folder``; the same weights every time."""
    import torch
    import transformers

    size: dict[str, Any] = {
        "vocab_size": make_tokenizer(folder),
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    wide = {"initializer_range": 0.2}  # else the features of so narrow a model hardly differ from row to row
    usual = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    known: dict[str, tuple[str, str, dict[str, Any]]] = {
        "bert": ("BertModel", "BertConfig", {**usual, "max_position_embeddings": 32}),
        "roberta": (
            "RobertaModel",
            "RobertaConfig",
            {**usual, **wide, "max_position_embeddings": 33, "type_vocab_size": 1},
        ),
        "distilbert": (
            "DistilBertModel",
            "DistilBertConfig",
            {**wide, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 32},
        ),
        "deberta-v2": ("DebertaV2Model", "DebertaV2Config", {**usual, **wide, "max_position_embeddings": 32}),
        "gpt2": ("GPT2LMHeadModel", "GPT2Config", {**wide, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}),
        "llama": (
            "LlamaForCausalLM",
            "LlamaConfig",
            {**usual, "num_key_value_heads": 2, "max_position_embeddings": 32},
        ),
        "qwen2": (
            "Qwen2ForCausalLM",
            "Qwen2Config",
            {**usual, **wide, "num_key_value_heads": 1, "max_position_embeddings": 32},
        ),
        "t5": (
            "T5ForConditionalGeneration",
            "T5Config",
            {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
        ),
    }
    model, config, options = known[architecture]
    torch.manual_seed(0)
    getattr(transformers, model)(getattr(transformers, config)(**size, **options)).save_pretrained(folder)
    return folder

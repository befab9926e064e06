"""A verbalizer's decisions are a language model's own, whatever is computed once and shared."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import MODELS, write_rows
from upright import Stack
from upright.engine.evaluate import predict
from upright.engine.execute import execute
from upright.errors import ConfigError
from upright_prompt.label_words import label_tokens, trailing_tokens

Make = Callable[[str], Path]
WORDS = {"sick": "fever and pain", "well": "rest"}
TEMPLATE = {"use": "template", "text": "note {text} it is"}
AUTO = {
    "gpt2": "AutoModelForCausalLM",
    "llama": "AutoModelForCausalLM",
    "qwen2": "AutoModelForCausalLM",
    "t5": "AutoModelForSeq2SeqLM",
}


@pytest.fixture(scope="session")
def masked_bert(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A tiny BERT with a masked-LM head."""
    folder = tmp_path_factory.mktemp("masked") / "model"
    shutil.copytree(tiny_bert, folder)
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder, initializer_range=0.3)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def zero_shot(toy: dict[str, Any], base: Path | str, *prompts: Any, **data: Any) -> dict[str, Any]:
    """The toy stack without training: only its test split, unless ``data`` names more."""
    stack = {key: value for key, value in toy.items() if key not in ("tune", "train")}
    kept = {key: toy["data"][key] for key in ("test", "sensitive", *data) if key in toy["data"]}
    return {**stack, "data": kept, "model": {"base": str(base)}, "prompt": list(prompts)}


def by_the_loop(base: Path, auto: str, texts: list[str], words: dict[str, list[int]]) -> torch.Tensor:
    """Summed log-likelihood ``[N, K]`` in float64: each text with each word on its own, one token's probability at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = getattr(transformers, auto).from_pretrained(base).double().eval()
    scores = torch.zeros(len(texts), len(words), dtype=torch.float64)
    for n, text in enumerate(texts):
        ids = tokenizer(text)["input_ids"]
        if auto == "AutoModelForCausalLM" and ids[-1] == tokenizer.sep_token_id:
            ids = ids[:-1]
        for k, tokens in enumerate(words.values()):
            said: list[int] = []
            for token in tokens:
                with torch.no_grad():
                    if auto == "AutoModelForCausalLM":
                        logits = model(torch.tensor([ids + said])).logits
                    else:
                        start = [model.config.decoder_start_token_id, *said]
                        logits = model(torch.tensor([ids]), decoder_input_ids=torch.tensor([start])).logits
                scores[n, k] += torch.log_softmax(logits[0, -1], -1)[token]
                said.append(token)
    return scores


@pytest.mark.parametrize("architecture", sorted(AUTO))
def test_shared_prefixes_give_the_scores_of_the_plain_loop(architecture: str, toy: dict[str, Any], tiny: Make) -> None:
    base = tiny(architecture)
    step = {"use": "verbalizer", "label_words": WORDS, "length_normalization": "none"}
    run = execute(Stack.load(zero_shot(toy, base, TEMPLATE, step)))
    words = label_tokens(run.tokenizer, WORDS)
    texts = [record["text"] for record in run.encoded["test"].records]
    expected = torch.softmax(by_the_loop(base, AUTO[architecture], texts, words), -1).numpy()
    assert len(words["sick"]) > len(words["well"])
    np.testing.assert_allclose(predict(run, "test").numpy("scores"), expected, atol=2e-5)  # float32 against float64


def test_labels_in_turns_score_as_all_at_once(toy: dict[str, Any], tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from upright_prompt import label_scores

    found = []
    for sequences in (256, 40):
        monkeypatch.setattr(label_scores, "SEQUENCES", sequences)
        run = execute(
            Stack.load(
                zero_shot(
                    toy, tiny("llama"), TEMPLATE, {"use": "verbalizer", "label_words": WORDS | {"well": "some rest"}}
                )
            )
        )
        found.append(predict(run, "test").numpy("scores"))
    np.testing.assert_allclose(*found, atol=1e-6)


def test_a_masked_model_is_asked_at_its_mask(toy: dict[str, Any], masked_bert: Path) -> None:
    template = {"use": "template", "text": "{text} has {mask_token} today"}
    run = execute(
        Stack.load(
            zero_shot(
                toy, masked_bert, template, {"use": "verbalizer", "label_words": {"sick": "fever", "well": "rest"}}
            )
        )
    )
    model = transformers.BertForMaskedLM.from_pretrained(masked_bert).double().eval()
    expected = []
    for record in run.encoded["test"].records:
        inputs = run.tokenizer(record["text"], return_tensors="pt")
        place = inputs["input_ids"][0].tolist().index(run.tokenizer.mask_token_id)
        with torch.no_grad():
            logits = model(**inputs).logits[0, place]
        expected.append(torch.softmax(logits[run.tokenizer.convert_tokens_to_ids(["fever", "rest"])], -1).numpy())
    np.testing.assert_allclose(predict(run, "test").numpy("scores"), np.array(expected), atol=2e-5)
    assert run.exit_code == 0


@pytest.mark.parametrize("architecture", ["llama", "t5", "masked"])
def test_a_zero_shot_stack_is_audited_and_explained(
    architecture: str, toy: dict[str, Any], tiny: Make, masked_bert: Path, tmp_path: Path
) -> None:
    base = masked_bert if architecture == "masked" else tiny(architecture)
    template = {**TEMPLATE, "text": "{text} is {mask_token}"} if architecture == "masked" else TEMPLATE
    step = {
        "use": "verbalizer",
        "label_words": {"sick": "fever" if architecture == "masked" else "fever and pain", "well": "rest"},
    }
    stack = zero_shot(toy, base, template, step)
    stack |= {
        "clean": ["unicode", "exact-dup"],
        "fairness": {"use": "group-audit", "groups": ["sex"]},
        "explain": {"use": "integrated-gradients", "samples": 3},
    }
    run = execute(Stack.load(stack))
    assert run.exit_code == 0, [path.read_text() for path in run.folder.rglob("*error.txt")]
    assert len(run.attributions["integrated-gradients"]) == 3
    assert "test/fairness/group-audit/demographic_parity_difference/sex" in run.metrics
    assert "fever" in (run.folder / "report.html").read_text()


def test_words_of_several_tokens_are_divided_by_their_length(toy: dict[str, Any], tiny: Make) -> None:
    scores = {}
    for how in ("tokens", "characters", "none"):
        step = {"use": "verbalizer", "label_words": WORDS, "length_normalization": how}
        run = execute(Stack.load(zero_shot(toy, tiny("llama"), TEMPLATE, step)))
        scores[how] = run.forward(next(run.batches(range(4), "test"))).logits.detach()
    tokens = torch.tensor([len(ids) for ids in label_tokens(run.tokenizer, WORDS).values()])
    torch.testing.assert_close(scores["tokens"], scores["none"] / tokens)
    torch.testing.assert_close(
        scores["characters"], scores["none"] / torch.tensor([len(word) for word in WORDS.values()])
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(["fever", "pain", "rest", "walk", "zz", "diet!"]), min_size=1, max_size=3))
def test_a_words_tokens_are_those_it_has_behind_a_text(words: list[str], tiny_bert: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    found = label_tokens(tokenizer, {"x": " ".join(words)})["x"]
    whole = tokenizer("the note " + " ".join(words))["input_ids"]
    assert whole[len(whole) - len(found) - 1 : -1] == found
    assert trailing_tokens(tokenizer) == 1


def test_a_real_storyteller_knows_its_words() -> None:
    if not (MODELS / "stories260k").is_dir():
        pytest.skip(f"{MODELS} holds no stories260k; set UPRIGHT_MODELS")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / "stories260k")
    found = label_tokens(tokenizer, {"a": "happy", "b": "sad"})
    assert tokenizer.decode(tokenizer("The day was", add_special_tokens=False)["input_ids"] + found["a"]).endswith(
        "was happy"
    )
    assert trailing_tokens(tokenizer) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"sick": "feverish"}, r"the word 'feverish' of the label 'sick' is \d+ tokens \(fever .*\) and a mask is one"),
        ({"sick": " "}, "the word ' ' of the label 'sick' has no token"),
        ({"sick": "é€"}, "the tokenizer does not know all of"),
        ({"sick": "rest", "well": "rest"}, "'sick' and 'well' have the same word"),
        ({"ill": "rest"}, "'ill' is no label of the data; there are sick, well"),
    ],
)
def test_words_that_cannot_stand_for_a_label_are_refused(
    words: dict[str, str], told: str, toy: dict[str, Any], masked_bert: Path
) -> None:
    template = {"use": "template", "text": "{text} is {mask_token}"}
    step = {"use": "verbalizer", "label_words": {"sick": "fever", "well": "diet"} | words}
    with pytest.raises(ConfigError, match=rf"prompt\.verbalizer: .*{told}"):
        execute(Stack.load(zero_shot(toy, masked_bert, template, step)))


def test_what_a_verbalizer_cannot_do_is_refused(
    toy: dict[str, Any], tiny_mean: Path, masked_bert: Path, tiny: Make, tmp_path: Path
) -> None:
    words = {"sick": "fever", "well": "rest"}
    step = {"use": "verbalizer", "label_words": words}
    with pytest.raises(ConfigError, match=r"was saved as BertModel, without a language-model head.*label-similarity"):
        execute(Stack.load(zero_shot(toy, tiny_mean, step)))
    with pytest.raises(
        ConfigError, match=r"row \d+ of test holds 0 mask tokens; write one {mask_token} into the template"
    ):
        execute(Stack.load(zero_shot(toy, masked_bert, step)))
    with pytest.raises(
        ConfigError, match=r'prompt.verbalizer cannot run with tune.lora .*"the base\'s own weights answer"'
    ):
        Stack.load({**toy, "model": {"base": str(masked_bert)}, "prompt": step})
    stack = zero_shot(toy, tiny("llama"), TEMPLATE, {**step, "label_words": {"sick": "some pain " * 16}})
    with pytest.raises(ConfigError, match="the label words leave no room for a text in the model's 32 tokens"):
        execute(Stack.load(stack))


def test_a_text_that_is_cut_is_told_once_and_counted(toy: dict[str, Any], tiny: Make, tmp_path: Path) -> None:
    rows = [{"text": "fever " * (40 if n < 3 else 2), "label": "sick" if n % 2 else "well"} for n in range(8)]
    stack = zero_shot(toy, tiny("llama"), TEMPLATE, {"use": "verbalizer"})
    stack["data"] = {"test": write_rows(tmp_path / "long.jsonl", rows)}
    run = execute(Stack.load(stack))
    warnings = [line for line in (run.folder / "events.jsonl").read_text().splitlines() if '"warning"' in line]
    assert len(warnings) == 1
    assert "{text} of a row was cut" in warnings[0]
    assert run.keep(run.stack.steps[0].step, "cut", dict)["text"][0] == 3
    assert "Cut texts" in (run.folder / "report.html").read_text()

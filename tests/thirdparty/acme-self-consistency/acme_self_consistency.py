"""Self-consistency (Wang et al., 2022, arXiv:2203.11171): sample several lines of thought, let their answers vote."""

from pydantic import Field

from upright import Capability, Output, Step, hook


class SelfConsistency(Step):
    """Let a causal language model think aloud several times about a text; each time the likeliest label word has a vote."""

    needs = frozenset({Capability.UNTUNED})
    tasks = frozenset({"text-classification"})

    label_words: dict[str, str] = Field(min_length=2, description="Label: the word that stands for it.")
    num_return_sequences: int = Field(5, ge=1, description="Lines of thought of a text, as in transformers.")
    max_new_tokens: int = Field(8, ge=1, description="Tokens of a line of thought, as in transformers.")
    temperature: float = Field(0.7, gt=0, description="Of the sampling, as in transformers.")

    @hook
    def model(self, run):
        return run.load_as("AutoModelForCausalLM")

    @hook
    def forward(self, batch, run):
        import torch

        words = [run.tokenizer(self.label_words[name], add_special_tokens=False)["input_ids"][0] for name in run.labels]
        votes = torch.full((len(batch), len(words)), 0.5, device=batch.labels.device)  # nobody is impossible
        for place in range(len(batch)):
            mask = batch.inputs["attention_mask"][place].bool()
            ids = batch.inputs["input_ids"][place][mask].unsqueeze(0).repeat(self.num_return_sequences, 1)
            for answer in self._thought(ids, run, int(batch.rows[place]))[:, words].argmax(-1).tolist():
                votes[place, answer] += 1
        return Output(votes.log())

    def _thought(self, ids, run, row):
        """What the model would say after each sampled continuation, ``[S, V]``; the draws follow from seed and row."""
        import torch

        generator = run.generator(self, row=row)
        room = min(self.max_new_tokens, run.max_length - ids.shape[1])
        with torch.no_grad():
            for _ in range(max(room, 0)):
                chances = torch.softmax(run.model(input_ids=ids).logits[:, -1].float() / self.temperature, dim=-1).cpu()
                ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator).to(ids.device)], dim=1)
            return run.model(input_ids=ids).logits[:, -1].float()

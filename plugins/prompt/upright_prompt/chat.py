"""A model's own chat template (https://huggingface.co/docs/transformers/chat_templating)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from upright import Section, Step, hook
from upright.errors import ConfigError
from upright.objects import Text
from upright_prompt.cut_texts import count_cut, cut_section, forget_cuts
from upright_prompt.fitting import fit
from upright_prompt.rendering import as_text, fields, readable
from upright_prompt.retrieve import Retrieve
from upright_prompt.rows import asked, check_names, columns, earlier, room, told

if TYPE_CHECKING:
    from upright import Run


class Chat(Step):
    """Render each record as a conversation by the tokenizer's chat template, up to where the model's answer begins.

    Where the whole does not fit the model's window, the user's longest column is cut; the template's own marks and the
    system message stay.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset(
        {"text-classification", "text-generation", "text2text-generation"}
    )

    user: str | None = Field(
        None, description="The user's message; default: `{text}`, or `{prompt}` where rows have one."
    )
    system: str | None = Field(None, description="The system message.")
    chat_template: str | None = Field(None, description="A Jinja template in place of the tokenizer's own.")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Variables of the chat template, such as `enable_thinking: false`."
    )

    @field_validator("user")
    @classmethod
    def _asks(cls, user: str | None) -> str | None:
        return user if user is None else readable(user)

    @hook
    def prepare(self, run: Run) -> None:
        """Refuse names that no column has and templates that cannot be rendered, before the first row."""
        where = told(self, run)
        forget_cuts(self, run)
        added = [placed.step.column for placed in earlier(self, run) if isinstance(placed.step, Retrieve)]
        check_names(fields(self._user(run)), [*columns(run), *added], where)
        if self.chat_template is None and not getattr(run.tokenizer, "chat_template", None):
            raise ConfigError(
                f"{where}: the tokenizer of {run.config.model.base} has no chat template; set `chat_template`, or use the "
                "step `template`"
            )
        mark = "upright"
        try:
            rendered = self._conversation(mark, run)
        except Exception as error:  # a Jinja template may raise whatever it likes
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"{where}: the chat template cannot be rendered ({reason}); correct `chat_template` or "
                "leave `system` out"
            ) from error
        if mark not in rendered:
            raise ConfigError(f"{where}: the chat template leaves the user's message out; correct `chat_template`")

    @hook
    def prompt(self, record: dict[str, Any], run: Run) -> dict[str, Any]:
        user, target = self._user(run), asked(run)
        values = {name: as_text(record[name]) for name in fields(user)}
        try:
            text, cut = fit(
                lambda kept: self._conversation(user.format(**kept), run), values, run.tokenizer, room(record, run)
            )
        except ConfigError as error:
            raise ConfigError(f"{told(self, run)}: {error}") from error
        count_cut(self, run, cut)
        changed = {**record, target: text}
        return {**changed, "text_pair": None} if "text_pair" in changed else changed

    @hook
    def report(self, run: Run) -> list[Section]:
        source = "the stack's chat template" if self.chat_template else "the tokenizer's chat template"
        digest = hashlib.sha256(str(self.chat_template or run.tokenizer.chat_template).encode()).hexdigest()
        cut = cut_section(self, run)
        return [Section("Chat prompts", [Text(f"Rendered by {source} (SHA-256 {digest}).")]), *([cut] if cut else [])]

    def _user(self, run: Run) -> str:
        return self.user or f"{{{asked(run)}}}"

    def _conversation(self, user: str, run: Run) -> str:
        """The rendered text without the begin-of-text token that the tokenizer adds itself when core makes tokens."""
        messages = [{"role": "system", "content": self.system}] if self.system is not None else []
        messages.append({"role": "user", "content": user})
        tokenizer: Any = run.tokenizer
        text = str(
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                chat_template=self.chat_template,
                **self.chat_template_kwargs,
            )
        )
        begin = tokenizer.bos_token
        return text.removeprefix(begin) if begin and tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id else text

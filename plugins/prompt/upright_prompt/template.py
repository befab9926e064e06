"""A text around a row's columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from upright import Section, Step, hook
from upright_prompt.cut_texts import cut_section, forget_cuts
from upright_prompt.rendering import readable, refuse_unknown_tokens, render

if TYPE_CHECKING:
    from upright import Run


class Template(Step):
    """Render each row into one text: `{text}` is a column, `{mask_token}` one of the model's special tokens.

    Where the whole does not fit the model's window, the longest column is cut first; the template's own words stay.
    `{{` and `}}` are braces.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset(
        {"text-classification", "text-generation", "text2text-generation"}
    )

    text: Annotated[str, AfterValidator(readable)] = Field(description="The template, such as `Note: {text}`.")

    @hook
    def prepare(self, run: Run) -> None:
        refuse_unknown_tokens(self, run, self.text)
        forget_cuts(self, run)

    @hook
    def prompt(self, record: dict[str, Any], run: Run) -> dict[str, Any]:
        return render(self, self.text, record, run)

    @hook
    def report(self, run: Run) -> Section | None:
        return cut_section(self, run)

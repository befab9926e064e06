"""The tokens of an explained row, with what colours and underlines them; a long text is cut to what matters."""

from __future__ import annotations

from typing import Any

SHOWN_TOKENS = 200
"""A longer text shows its strongest tokens."""
NEAR = 5
"""Tokens that are shown on either side of a strong one."""


def coloured(row: dict[str, Any]) -> list[dict[str, Any]]:
    """One mapping a token; ``{"left_out": n}`` stands for n tokens of a long text that are not shown."""
    strongest = max((abs(score) for score in row["scores"]), default=0.0) or 1.0
    tokens = [
        {
            "text": token.removeprefix("##").replace("Ġ", " ").replace("▁", " "),
            "glued": token.startswith("##"),
            "special": start == end,
            "share": round(abs(score) / strongest, 2),
            "side": "for" if score > 0 else "against",
            "score": f"{score:+.3f}",
        }
        for token, (start, end), score in zip(row["tokens"], row["offsets"], row["scores"], strict=True)
    ]
    return tokens if len(tokens) <= SHOWN_TOKENS else _cut(tokens)


def _cut(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: set[int] = set()
    for place in sorted(range(len(tokens)), key=lambda place: -tokens[place]["share"]):
        more = kept | set(range(max(0, place - NEAR), min(len(tokens), place + NEAR + 1)))
        if len(more) > SHOWN_TOKENS:
            break
        kept = more
    shown: list[dict[str, Any]] = []
    for place, token in enumerate(tokens):
        if place in kept:
            shown.append(token)
        elif shown and "left_out" in shown[-1]:
            shown[-1]["left_out"] += 1
        else:
            shown.append({"left_out": 1})
    return shown

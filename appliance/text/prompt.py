"""A rendered prompt: the template's text, and which parts of it must stay text. Frozen, so it crosses threads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A conversation as rendered by a chat template.

    `user_spans` are the half-open ranges of `text` that spell a special token with characters that a user sent;
    every other spelling is the template's own and becomes the token. Ordered, not overlapping, mostly empty.
    """

    text: str
    user_spans: tuple[tuple[int, int], ...] = ()

"""The places of a chat's prompt at which another prompt may part from it, for models whose state cannot be cut back."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.server.v1.turn import Turn
from appliance.text.prompt import RenderedPrompt
from appliance.text.tokenizer import Tokenizer

_LONGEST_HEAD = 16  # tokens between a turn's special token and its content


def turn_borders(
    tokenizer: Tokenizer, rendered: RenderedPrompt, prompt: Sequence[int], turns: Sequence[Turn]
) -> tuple[int, ...]:
    """Return the number of tokens before the last turn, where an edited message or another question parts from it.

    Nothing is returned if the template writes the message in another way than it came, or begins no turn with a special
    token.
    """
    content = turns[-1].content.strip() if turns else ""
    start = rendered.text.rfind(content) if content else -1
    if start <= 0:
        return ()
    spans = tuple(span for span in rendered.user_spans if span[1] <= start)
    before = tokenizer.encode_rendered(RenderedPrompt(rendered.text[:start], spans))
    for end in range(len(before), max(0, len(before) - _LONGEST_HEAD), -1):
        if tokenizer.is_special(before[end - 1]):
            return (end,) if tuple(prompt[:end]) == before[:end] else ()
    return ()

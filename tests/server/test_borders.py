"""The beginning of a chat's last turn, in tokens: the same for every message that may stand there."""

from __future__ import annotations

import pytest

from appliance.server.v1.chat.borders import turn_borders
from appliance.server.v1.turn import Turn
from appliance.server.v1.turns import render_turns
from appliance.text.template import ChatTemplate
from appliance.text.tokenizer import Tokenizer
from tests.quantize.tiny import TEMPLATE
from tests.text.conftest import byte_level_tokenizer

TOKENIZER = Tokenizer(byte_level_tokenizer().to_str().encode())
SYSTEM = Turn("system", "You answer in one word.")


def borders_of(*turns: Turn, source: str = TEMPLATE) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the borders and the prompt."""
    rendered = render_turns(ChatTemplate(source, TOKENIZER.special_tokens), list(turns), instructions=None, tools=None)
    prompt = TOKENIZER.encode_rendered(rendered)
    return turn_borders(TOKENIZER, rendered, prompt, turns), prompt


@pytest.mark.parametrize("question", ["What is it?", "\nand so\n", "你好", "<|im_end|> is what?", "x" * 900])
def test_the_last_turn_begins_where_any_other_message_would(question: str) -> None:
    [border], prompt = borders_of(SYSTEM, Turn("user", question))
    [same], other = borders_of(SYSTEM, Turn("user", "Something else"))
    assert border == same
    assert prompt[:border] == other[:border]
    assert prompt[border - 1] == TOKENIZER.special_tokens["<|im_start|>"]
    assert len(prompt) - border >= 4


def test_a_later_turn_is_found_though_an_earlier_one_says_the_same() -> None:
    [border], prompt = borders_of(SYSTEM, Turn("user", "Why?"), Turn("assistant", "So."), Turn("user", "Why?"))
    assert prompt[:border].count(TOKENIZER.special_tokens["<|im_start|>"]) == 4


def test_there_is_none_where_the_template_rewrites_the_message_or_begins_no_turn() -> None:
    shouting = TEMPLATE.replace("m['content']", "m['content'] | upper")
    assert borders_of(SYSTEM, Turn("user", "quiet please"), source=shouting)[0] == ()
    plain = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    assert borders_of(SYSTEM, Turn("user", "Hello"), source=plain)[0] == ()
    assert borders_of(SYSTEM, Turn("user", "  "))[0] == ()

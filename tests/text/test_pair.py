from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from appliance.text.pair import PairFrame

_CLS, _SEP, _A, _B = 0, 1, 2, 3


def a_tokenizer(pair: str) -> Tokenizer:
    vocabulary = {"[CLS]": _CLS, "[SEP]": _SEP, "a": _A, "b": _B}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="b"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", _CLS), ("[SEP]", _SEP)]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("pair", "between", "start"),
    [
        ("[CLS] $A [SEP] $B:1 [SEP]:1", (_SEP,), 4),
        ("[CLS] $A [SEP] [SEP] $B [SEP]", (_SEP, _SEP), 5),
        ("[CLS] $A [SEP] [SEP]:1 $B:1 [SEP]:1", (_SEP, _SEP), 4),
    ],
)
def test_a_joined_pair_is_what_the_tokenizer_makes_of_two_texts(
    pair: str, between: tuple[int, ...], start: int
) -> None:
    tokenizer = a_tokenizer(pair)
    frame = PairFrame.of(tokenizer)
    assert frame.between == between
    tokens, second_start = frame.join([_A, _B], [_B, _B, _A])
    assert list(tokens) == tokenizer.encode("a b", "b b a").ids
    assert second_start == start
    assert frame.room_beside([_A, _B], len(tokens)) == 3

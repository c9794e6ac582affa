from __future__ import annotations

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from appliance.bundle import RerankPrompt
from appliance.text.pair import PairFrame
from appliance.text.tokenizer import Tokenizer as DeviceTokenizer

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


_PROMPT = RerankPrompt(
    before="<|start|>system\nJudge.<|end|>\n",
    text="<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
    after="<|end|>\n",
    instruction="Find what answers.",
)
_LINES = ["The fox jumps over the lazy dog.", "<Instruct>: Find what answers. <Query>: fox <Document>: dog"]


@pytest.fixture(scope="module")
def byte_level() -> DeviceTokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<|start|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_LINES * 4, trainer)
    return DeviceTokenizer(tokenizer.to_str().encode())


@pytest.mark.parametrize("document", ["dog jumps", " dog", "\ndog\n", "", "...", "über 12"])
@pytest.mark.parametrize("limit", [1000, 60, 40])
def test_a_prompted_pair_is_one_text_whose_end_is_cut(byte_level: DeviceTokenizer, document: str, limit: int) -> None:
    raw = byte_level._tokenizer
    before, after = (raw.encode(text).ids for text in (_PROMPT.before, _PROMPT.after))
    text = f"<Instruct>: Find what answers.\n<Query>: the fox\n<Document>: {document}"
    wanted = [*before, *raw.encode(text).ids[: limit - len(before) - len(after)], *after]
    pairing = byte_level.pairing("the fox", _PROMPT)
    tokens, start = pairing.join(pairing.encode(document)[: pairing.room(limit)])
    assert list(tokens) == wanted
    assert start == len(tokens) <= limit


def test_the_words_of_a_query_never_become_places_or_special_tokens(byte_level: DeviceTokenizer) -> None:
    pairing = byte_level.pairing("{document} {instruction} <|end|>", _PROMPT, instruction="{query}")
    tokens, _ = pairing.join(pairing.encode("<|start|> dog"))
    specials = [token for token in tokens if byte_level.is_special(token)]
    assert [byte_level.token_id(name) for name in ("<|start|>", "<|end|>", "<|end|>")] == specials
    written = b"".join(map(byte_level.token_bytes, tokens)).decode()
    assert "<Instruct>: {query}\n<Query>: {document} {instruction} <|end|>\n<Document>: <|start|> dog" in written


@pytest.mark.parametrize(
    ("text", "instruction"),
    [
        ("{query} {document} ", ""),
        ("{document} {query} {document}", ""),
        ("{query}", ""),
        ("{query} {instruction} {document}", ""),
        ("{query} {document}", "Find."),
    ],
)
def test_a_prompt_without_its_places_is_refused(text: str, instruction: str) -> None:
    with pytest.raises(ValidationError, match="the prompt's text"):
        RerankPrompt(before="", text=text, after="", instruction=instruction)

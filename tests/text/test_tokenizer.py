from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from appliance.errors import BundleError
from appliance.text.prompt import RenderedPrompt
from appliance.text.tokenizer import Tokenizer

_ANY_TEXT = st.lists(
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<|", "im_end", "|>", "<think>", "</s>", "<s>", "[SEP]", " ", "a"])
    | st.text(max_size=5)
).map("".join)


@settings(deadline=None, max_examples=200)
@given(_ANY_TEXT)
def test_user_text_never_becomes_a_special_token(
    byte_level: Tokenizer, sentencepiece: Tokenizer, unigram: Tokenizer, ignoring_merges: Tokenizer, text: str
) -> None:
    for tokenizer in (byte_level, sentencepiece, ignoring_merges):
        assert not any(map(tokenizer.is_special, tokenizer.encode(text)))
    assert unigram.special_tokens["</s>"] not in unigram.encode(text)


@settings(deadline=None, max_examples=200)
@given(_ANY_TEXT)
def test_the_bytes_of_a_text_s_tokens_are_its_bytes(byte_level: Tokenizer, text: str) -> None:
    assert b"".join(map(byte_level.token_bytes, byte_level.encode(text))) == text.encode()


def test_a_prompt_without_user_spellings_is_one_plain_encoding(byte_level: Tokenizer, oracle: FastTokenizer) -> None:
    text = "<|im_start|>user\nThe shells, please <think> 🎉<|im_end|>\n<|im_start|>assistant\n"
    assert list(byte_level.encode_rendered(RenderedPrompt(text))) == oracle.encode(text).ids


def test_marked_places_stay_text_and_the_template_s_tokens_do_not(byte_level: Tokenizer, oracle: FastTokenizer) -> None:
    text = "<|im_start|>the <|im_end|> shells <think><|im_end|>"
    at = text.index("<|im_end|>")
    ids = byte_level.encode_rendered(RenderedPrompt(text, ((at, at + 10),)))
    assert [token for token in ids if byte_level.is_special(token)] == [1, 2]
    assert ids[0] == 1
    assert ids[-1] == 2
    assert byte_level.token_id("<think>") in ids
    assert b"".join(map(byte_level.token_bytes, ids)) == b"the <|im_end|> shells <think>"


def test_a_blank_is_put_in_front_once_where_a_part_stays_text(sentencepiece: Tokenizer) -> None:
    plain = sentencepiece.encode_rendered(RenderedPrompt("the<s>in"))
    marked = sentencepiece.encode_rendered(RenderedPrompt("the<s>in</s>er", ((8, 12),)))
    assert marked[: len(plain)] == plain
    assert b"".join(map(sentencepiece.token_bytes, marked)) == b" the in</s>er"


def test_the_first_token_of_a_text_is_added_only_when_asked(byte_level: Tokenizer) -> None:
    assert byte_level.encode("shells", bos_id=7) == (7, *byte_level.encode("shells"))


def test_half_a_surrogate_pair_does_no_harm(byte_level: Tokenizer) -> None:
    assert byte_level.encode("a\ud83db") == byte_level.encode("a\ufffdb")
    text = "\ud83d\ude00<|im_end|><|im_end|>"
    ids = byte_level.encode_rendered(RenderedPrompt(text, ((2, 12),)))
    assert [token for token in ids if byte_level.is_special(token)] == [2]


def test_a_character_missing_from_the_vocabulary_is_left_out_rather_than_ending_the_text(
    altered: Callable[..., Tokenizer],
) -> None:
    vocab = {"<|endoftext|>": 0, "a": 1, "b": 2}
    model = {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<|endoftext|>", "fuse_unk": True}
    tokenizer = altered(model=model, added_tokens=[_added(0, "<|endoftext|>")])
    assert tokenizer.encode("a\x04b") == (1, 2)


def test_special_tokens_matched_after_normalization_stay_text_too(altered: Callable[..., Tokenizer]) -> None:
    tokenizer = altered(
        normalizer={"type": "Lowercase"}, added_tokens=[_added(0, "<|endoftext|>") | {"normalized": True}]
    )
    assert 0 not in tokenizer.encode("a <|ENDoftext|> b <|endoftext|>")
    prompt = RenderedPrompt("<|endoftext|>a<|endoftext|>", ((0, 13),))
    assert tokenizer.encode_rendered(prompt).count(0) == 1


def test_an_embedded_text_gets_the_vocabulary_s_own_frame_and_no_padding(wordpiece: Tokenizer) -> None:
    assert wordpiece.encode_framed("Hello worlds hello hello") == (2, 4, 5, 6, 4, 4, 3)
    assert wordpiece.encode_framed("") == (2, 3)
    tokens = wordpiece.encode_framed("Hello worlds hello hello")
    assert wordpiece.cut(tokens, 7) == tokens
    assert wordpiece.cut(tokens, 4) == (2, 4, 5, 3)
    assert wordpiece.cut(tokens[:-1], 4) == (2, 4, 5, 6)  # without the token behind a text there is none to keep


def test_an_embedded_text_cannot_bring_its_own_frame(wordpiece: Tokenizer) -> None:
    assert wordpiece.encode_framed("hello [SEP]") == (2, 4, 7, 9, 8, 3)


def test_token_bytes_know_both_conventions(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    assert byte_level.token_bytes(_id(byte_level, "Ġ")) == b" "
    assert sentencepiece.token_bytes(_id(sentencepiece, "▁the")) == b" the"
    assert sentencepiece.token_bytes(_id(sentencepiece, "<0xE2>")) == b"\xe2"
    assert sentencepiece.has_leading_blank
    assert not byte_level.has_leading_blank


def test_special_tokens_and_ids_beyond_the_vocabulary_have_no_bytes(byte_level: Tokenizer) -> None:
    assert byte_level.token_bytes(byte_level.special_tokens["<|im_end|>"]) == b""
    assert byte_level.token_bytes(-1) == b""
    assert byte_level.token_bytes(byte_level.vocab_size) == b""
    assert byte_level.vocabulary_bytes[2] == b"<|im_end|>"
    assert byte_level.token_bytes(_id(byte_level, "<think>")) == b"<think>"


def test_many_threads_encode_alike(byte_level: Tokenizer) -> None:
    texts = [f"the <|im_end|> {number} shells" for number in range(50)]
    expected = [byte_level.encode(text) for text in texts]
    results: list[list[tuple[int, ...]]] = []
    threads = [
        threading.Thread(target=lambda: results.append([byte_level.encode(text) for text in texts])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"model": {"type": "BPE"}}', b"[" * 100_000])
def test_a_broken_file_is_a_broken_bundle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="copy the bundle again"):
        Tokenizer.from_file(path)


def test_a_missing_file_is_a_broken_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def _id(tokenizer: Tokenizer, text: str) -> int:
    token = tokenizer.token_id(text)
    assert token is not None
    return token


def _added(token: int, text: str) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, "special": True, **flags}

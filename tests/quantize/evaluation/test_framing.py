"""Texts for measuring and for calibration begin as the model's vocabulary begins every text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from appliance.bundle import DecoderSpec
from quantize.evaluation.decoder import held_out_windows
from quantize.evaluation.framing import opening, windows_of
from quantize.evaluation.questions import question_tokens
from quantize.precision.calibration import calibration_windows
from quantize.progress import SILENT
from quantize.recipe import CalibrationPart
from tests.quantize.tiny import SPECIALS, VOCAB, change_json, write_tokenizer

_BOS = SPECIALS.index(SPECIALS[1])
_SPEC = DecoderSpec(
    architecture="gemma3_text",
    context_length=64,
    vocab_size=VOCAB,
    num_layers=1,
    num_kv_heads=1,
    head_dim=32,
    bos_token_id=_BOS,
    eos_token_ids=(2,),
)


@pytest.fixture
def framed(tmp_path: Path) -> Path:
    """Write a tokenizer like Gemma's, which begins every text with a token of its own."""
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIALS[1]} $A", pair=f"{SPECIALS[1]} $A $B", special_tokens=[(SPECIALS[1], _BOS)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_every_window_that_measures_begins_with_the_opening(framed: Path) -> None:
    windows = held_out_windows(framed, _SPEC)
    assert len(windows) == 6
    assert {len(window) for window in windows} == {64}
    assert all(window[0] == _BOS and _BOS not in window[1:] for window in windows)


def test_every_window_that_calibrates_begins_with_it_too(framed: Path, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("the lazy dog sleeps and then the fox jumps over it " * 40)
    part = CalibrationPart(num_windows=4, window_tokens=32, file=str(tmp_path / "own.txt"))
    windows = calibration_windows(framed, tmp_path, _SPEC, part, SILENT, scratch=tmp_path)
    assert windows.shape == (4, 32)
    assert (windows[:, 0] == _BOS).all()


def test_a_vocabulary_without_an_opening_gives_plain_text(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "the quick brown fox " * 10
    ids = tokenizer.encode(text).ids
    assert opening(tokenizer) == []
    found = windows_of(tokenizer, text, length=8, count=2, vocab_size=VOCAB)
    assert np.concatenate(found).tolist() == ids[:16]


def test_a_question_opens_as_a_device_would_have_it(framed: Path) -> None:
    tokenizer = Tokenizer.from_file(str(framed / "tokenizer.json"))
    change_json(framed / "tokenizer_config.json", chat_template="{{ bos_token }}{{ messages[0].content }}")
    assert question_tokens(tokenizer, framed, _SPEC, "the fox")[:1] == [_BOS]
    change_json(framed / "tokenizer_config.json", chat_template=None)
    asked = question_tokens(tokenizer, framed, _SPEC, "the fox")
    assert asked == [_BOS, *tokenizer.encode("the fox", add_special_tokens=False).ids]

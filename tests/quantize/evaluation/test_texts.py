"""Evaluation and calibration share no text, and both are the same at every call."""

from __future__ import annotations

from quantize.evaluation import texts


def test_no_held_out_text_is_in_the_calibration_text() -> None:
    calibration = " ".join("\n".join(texts.prose() + texts.code()).split())
    for held_out in (texts.held_out_prose(), texts.held_out_code()):
        words = held_out.split()
        assert len(words) > 500
        for at in range(0, len(words) - 20, 50):
            assert " ".join(words[at : at + 20]) not in calibration, words[at : at + 20]


def test_snippets_have_the_lengths_asked_for_and_differ() -> None:
    lengths = [1, 5, 40] * 20
    snippets = texts.snippets(texts.prose(), lengths, 131)
    assert [len(snippet.split()) for snippet in snippets] == lengths
    assert len(set(snippets[2::3])) == 20
    assert snippets == texts.snippets(texts.prose(), lengths, 131)

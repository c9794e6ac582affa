from __future__ import annotations

import pytest

from appliance.bench.prompts import TokenRate, lengths, sentences, words


def test_the_same_seed_gives_the_same_text() -> None:
    assert words(50, "stream", 3) == words(50, "stream", 3)
    assert sentences(50, 3) == sentences(50, 3)
    assert lengths(32, 5, 200, "mixed") == lengths(32, 5, 200, "mixed")


def test_the_text_does_not_depend_on_the_process() -> None:
    assert words(4, "x", 1) == "light metal watched forest"


def test_texts_of_different_runs_share_no_beginning_worth_caching() -> None:
    beginnings = [tuple(words(100, "stream", i).split()[:4]) for i in range(50)]
    assert len(set(beginnings)) == 50


@pytest.mark.parametrize("num_words", [1, 20, 500])
def test_a_text_has_as_many_words_as_asked(num_words: int) -> None:
    assert len(words(num_words, 0).split()) == num_words
    assert num_words <= len(sentences(num_words, 0).split()) < num_words + 10


def test_mixed_lengths_stay_within_their_bounds_and_differ() -> None:
    found = lengths(32, 5, 200, 0)
    assert len(found) == 32
    assert min(found) >= 5
    assert max(found) <= 200
    assert len(set(found)) > 10


def test_a_token_rate_finds_the_words_for_a_prompt() -> None:
    rate = TokenRate.of((20, 20 + 31), (120, 120 + 31))
    assert rate.words_for(128) == 97
    assert rate.words_for(3) == 1
    assert TokenRate.of((20, 61), (120, 211)).words_for(211) == 120

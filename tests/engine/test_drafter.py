from __future__ import annotations

from appliance.engine.drafter import Draft, Drafter, num_agreeing

TEXT = list(range(100, 130))


def drafter(*, cost: float = 2.0, width: int = 6) -> Drafter:
    """One that has measured both kinds of step."""
    made = Drafter(width)
    made.stepped(1.0)
    made.tried(Draft((1, 2), 3), 0, cost)
    return made


def test_what_followed_the_same_text_before_is_drafted() -> None:
    draft = drafter().draft("a", [*TEXT, 1, 2, *TEXT[:15]], room=100)
    assert draft == Draft(tuple(TEXT[15:20]), 12)


def test_the_most_recent_place_counts() -> None:
    tokens = [*TEXT, 7, 7, *TEXT[:12], 8, 8, 8, 8, 8, 8, *TEXT[:12]]
    draft = drafter().draft("a", tokens, room=100)
    assert draft is not None
    assert draft.tokens == (8, 8, 8, 8, 8)


def test_a_draft_is_never_longer_than_what_may_still_be_said() -> None:
    tokens = [*TEXT, *TEXT[:15]]
    assert drafter().draft("a", tokens, room=3) == Draft(tuple(TEXT[15:18]), 12)
    assert drafter().draft("a", tokens, room=1) is None


def test_a_text_without_repetition_has_no_draft() -> None:
    assert drafter().draft("a", TEXT, room=100) is None
    assert drafter().draft("a", [1, 2], room=100) is None


def test_growing_token_by_token_finds_what_reading_at_once_finds() -> None:
    tokens = [*TEXT, 1, 2, *TEXT[:15]]
    slow = drafter()
    drafts = [slow.draft("a", tokens[:n], room=100) for n in range(1, len(tokens) + 1)]
    assert drafts[-1] == drafter().draft("a", tokens, room=100)


def test_a_step_that_is_too_dear_is_not_taken() -> None:
    tokens = [*TEXT, 1, 2, *TEXT[:15]]
    assert drafter(cost=5.9).draft("a", tokens, room=100) is not None
    assert drafter(cost=6.1).draft("a", tokens, room=100) is None


def test_drafts_that_fail_are_soon_no_longer_tried() -> None:
    asked = drafter()
    tokens = [*TEXT, 1, 2, *TEXT[:15]]
    for _ in range(20):
        draft = asked.draft("a", tokens, room=100)
        if draft is None:
            break
        asked.tried(draft, 0, 2.0)
    assert asked.draft("a", tokens, room=100) is None


def test_a_short_match_is_not_believed_until_such_drafts_came_true_untried() -> None:
    asked = drafter()
    sayings = [[n, n + 1, n + 2, *range(n + 1000, n + 1010)] for n in range(0, 400, 10)]
    tokens: list[int] = [token for saying in sayings for token in saying]
    num_drafts = 0
    for saying in sayings:
        tokens += [9999, *saying[:3]]
        draft = asked.draft("a", tokens, room=100)
        num_drafts += draft is not None
        for token in saying[3:]:  # what was said before is said again, so that each draft is right
            tokens.append(token)
            if asked.draft("a", tokens, room=0) is not None:
                raise AssertionError
        if draft is not None:
            break
    assert num_drafts == 1
    assert tokens.count(9999) > 1


def test_sequences_do_not_see_each_other() -> None:
    asked = drafter()
    asked.draft("a", TEXT, room=100)
    assert asked.draft("b", TEXT[:15], room=100) is None
    asked.forget("a")
    assert asked.draft("a", TEXT[:15], room=100) is None


def test_agreeing_tokens_are_counted_from_the_start() -> None:
    assert num_agreeing([1, 2, 3], [1, 2, 4]) == 2
    assert num_agreeing([1, 2], [1, 2, 4]) == 2
    assert num_agreeing([], [1]) == 0

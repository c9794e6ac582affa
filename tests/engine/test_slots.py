from __future__ import annotations

from appliance.engine.moves import SlotCopy, SlotSwap
from appliance.engine.slots import Claim, IdleSlot, SlotPool, shared_prefix


def claim(pool: SlotPool, owner: str, prompt: list[int], key: str = "") -> Claim:
    result = pool.claim(owner, prompt, key)
    assert result is not None
    pool.extend(owner, prompt[result.num_cached :])
    return result


def test_no_row_is_given_twice() -> None:
    pool = SlotPool(2)
    claim(pool, "a", [1, 2, 3])
    claim(pool, "b", [4, 5, 6])
    assert pool.claim("c", [7, 8], "") is None
    assert {pool.slot_of("a"), pool.slot_of("b")} == {0, 1}


def test_decoding_rows_stay_contiguous_when_one_in_the_middle_leaves() -> None:
    pool = SlotPool(4)
    for owner in "abc":
        claim(pool, owner, [ord(owner)] * 5)
        pool.start_decoding(owner)
    assert pool.release("a") == (SlotSwap(0, 2, 5),)
    assert pool.decoding_owners() == ["c", "b"]
    assert [pool.slot_of("c"), pool.slot_of("b")] == [0, 1]


def test_a_prompt_that_finishes_first_goes_in_front_of_one_still_under_way() -> None:
    pool = SlotPool(3)
    claim(pool, "slow", [1] * 9)
    claim(pool, "fast", [2] * 4)
    assert pool.start_decoding("fast") == (SlotSwap(1, 0, 9),)
    assert (pool.slot_of("fast"), pool.slot_of("slow")) == (0, 1)


def test_a_released_row_is_continued_in_place() -> None:
    pool = SlotPool(2)
    claim(pool, "a", [1, 2, 3, 4])
    pool.release("a")
    assert pool.claim("b", [1, 2, 3, 4, 5, 6], "") == Claim(4, (), 4)
    assert pool.slot_of("b") == 0


def test_a_short_common_beginning_is_copied_and_the_long_memory_kept() -> None:
    pool = SlotPool(2)
    claim(pool, "long", [*range(100)])
    pool.release("long")
    assert pool.claim("b", [0, 1, 2, 3, 77, 78], "") == Claim(4, (SlotCopy(0, 1, 4),), 4)


def test_another_conversation_with_the_same_beginning_takes_an_empty_slot() -> None:
    system = [*range(100)]
    pool = SlotPool(2)
    claim(pool, "a", [*system, *range(200, 280)])
    pool.release("a")
    assert pool.claim("b", [*system, *range(300, 380)], "") == Claim(100, (SlotCopy(0, 1, 100),), 100)
    pool.release("b")
    assert pool.num_reusable([*system, *range(200, 280), 1, 2, 3], "") == 180


def test_without_an_empty_slot_a_long_common_beginning_stays_in_place() -> None:
    system = [*range(100)]
    pool = SlotPool(2)
    claim(pool, "a", [*system, *range(200, 280)])
    claim(pool, "other", [*range(500, 900)])
    pool.release("a")
    pool.release("other")
    found = pool.claim("b", [*system, *range(300, 380)], "")
    assert found is not None
    assert (found.num_cached, found.moves, found.num_shared) == (100, (), 100)
    assert found.given_up is not None
    assert found.given_up.tokens == (*system, *range(200, 280))
    assert pool.num_reusable([*range(500, 900), 1, 2, 3], "") == 400


def test_a_chat_that_goes_on_gives_nothing_up_and_another_one_all_that_a_slot_held() -> None:
    pool = SlotPool(1)
    claim(pool, "a", [*range(100)])
    pool.extend("a", [500, 501])
    pool.release("a")
    assert claim(pool, "next turn", [*range(100), 700, *range(200, 260)]).given_up is None
    pool.release("next turn")
    assert claim(pool, "other key", [*range(100), 700, 701], key="bob").given_up == IdleSlot(
        0, "", (*range(100), 700, *range(200, 260))
    )


def test_the_slot_that_was_used_longest_ago_is_vacated_unless_one_is_empty() -> None:
    pool = SlotPool(2)
    claim(pool, "a", [1, 2, 3])
    pool.release("a")
    assert pool.vacate() is None
    claim(pool, "b", [4, 5, 6])
    assert pool.vacate() == IdleSlot(0, "", (1, 2, 3))
    assert [slot.tokens for slot in pool.idle_slots()] == []
    claim(pool, "c", [7, 8])
    assert pool.vacate() is None  # all are in use


def test_the_next_turn_without_the_reasoning_of_the_last_takes_no_slot_of_another() -> None:
    for others in ([], [[*range(500, 600)], [*range(600, 700)]]):
        pool = SlotPool(3)
        for prompt in others:
            claim(pool, "other", prompt)
            pool.release("other")
        question = [*range(100)]
        claim(pool, "a", question)
        pool.extend("a", range(200, 900))  # reasoning and answer
        pool.release("a")
        assert pool.claim("b", [*question[:-4], 888, *range(1000, 1050)], "") == Claim(96, (), 96)


def test_a_slot_that_got_no_token_is_taken_before_one_that_holds_a_conversation() -> None:
    pool = SlotPool(2)
    claim(pool, "a", [1, 2, 3])
    pool.release("a")
    assert pool.claim("cancelled", [7, 8, 9], "") is not None
    pool.release("cancelled")
    assert pool.claim("c", [4, 5, 6], "") is not None
    assert pool.num_reusable([1, 2, 3, 4, 5], "") == 3


def test_a_running_row_lends_its_prefix() -> None:
    pool = SlotPool(2)
    claim(pool, "a", [*range(50)])
    pool.start_decoding("a")
    assert pool.claim("b", [*range(40), 99, 98], "") == Claim(40, (SlotCopy(0, 1, 40),), 40)


def test_at_least_two_tokens_are_left_to_compute() -> None:
    pool = SlotPool(1)
    claim(pool, "a", [1, 2, 3, 4])
    pool.release("a")
    assert pool.claim("b", [1, 2, 3, 4], "") == Claim(2, (), 2)


def test_the_least_recently_used_row_is_forgotten_first() -> None:
    pool = SlotPool(2)
    claim(pool, "a", [1] * 5)
    claim(pool, "b", [2] * 5)
    pool.release("a")
    pool.release("b")
    claim(pool, "c", [3] * 5)
    pool.release("c")
    assert pool.num_reusable([1] * 5, "") == 0
    assert pool.num_reusable([2] * 5, "") == 3


def test_shared_prefix_is_exact_around_its_comparison_blocks() -> None:
    for length in (0, 1, 127, 128, 129, 256, 300):
        a = list(range(length))
        assert shared_prefix([*a, -1], [*a, -2]) == length
        assert shared_prefix(a, [*a, 5]) == length

"""Fixed questions with answers that a rule can check, and some that people read side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """A question, and the rule that decides if an answer is right."""

    question: str
    is_right: Callable[[str], bool]


OPEN_QUESTIONS = (
    "What causes the tides?",
    "Write a short note that thanks a neighbour for watering the plants.",
    "How do I read a text file line by line in Python?",
)


def number(expected: int) -> Callable[[str], bool]:
    """Return a rule: the answer's last number is this one."""

    def check(answer: str) -> bool:
        found = re.findall(r"-?\d+", answer.replace(",", ""))
        return bool(found) and int(found[-1]) == expected

    return check


def exact_json(expected: object) -> Callable[[str], bool]:
    """Return a rule: the answer, without a code fence around it, is this JSON value."""

    def check(answer: str) -> bool:
        text = re.sub(r"^\s*```(?:json)?|```\s*$", "", answer.strip())
        try:
            return bool(json.loads(text) == expected)
        except (ValueError, RecursionError):
            return False

    return check


def says(expected: str) -> Callable[[str], bool]:
    """Return a rule: the answer holds these words, in upper or lower case."""
    return lambda answer: expected.lower() in answer.lower()


TASKS = (
    Task("What is 7 + 5? Reply with the number only.", number(12)),
    Task("What is 9 * 6? Reply with the number only.", number(54)),
    Task("I have 20 apples and give away 8. How many are left? Reply with the number only.", number(12)),
    Task(
        'Repeat exactly this JSON and nothing else: {"name": "Ada", "age": 36}', exact_json({"name": "Ada", "age": 36})
    ),
    Task(
        "Reply with the JSON list of the numbers from 1 to 4, and nothing else. Example: [7, 8]",
        exact_json([1, 2, 3, 4]),
    ),
    Task("The meeting with Dr. Okafor is on 14 March at 10:30 in Lyon. In which city is the meeting?", says("Lyon")),
    Task("Order 4471 was sent by Maria on Tuesday. What is the number of the order?", number(4471)),
    Task("What is the capital of France?", says("Paris")),
)

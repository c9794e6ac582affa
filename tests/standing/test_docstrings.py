"""First words of docstrings: a verb in the imperative for a function, a noun for a class, a module and a property."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_QUESTIONS = "What Who Whom Whose Whoever Whatever Whether Where How When Why Which"
_OTHERS = """
A About After All An And Another Any As At Before Beyond Both By Each Every Everything Few For From He If In Is It No
Nobody None Not Nothing Of On One Only Other Our Several She So Some Somebody Something That The Their There These They
Three To Token Two Unless We With Without You Your
"""
QUESTIONS = frozenset(_QUESTIONS.split())
NO_VERBS = QUESTIONS | frozenset(_OTHERS.split())
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*tops: str) -> Iterator[str]:
    """Yield the paths of Python files."""
    for top in tops:
        yield from sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / top).rglob("*.py"))


def docstrings(content: str) -> Iterator[tuple[ast.Module | ast.ClassDef | Function, str]]:
    """Yield each module, class and function that has a docstring, with its first word."""
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and (text := ast.get_docstring(node)):
            yield node, re.split(r"[\s,.:;]", text, maxsplit=1)[0]


def is_action(node: ast.AST) -> bool:
    """Return True for a function, unless it is a property or an initializer, whose docstring explains its arguments."""
    if not isinstance(node, Function) or node.name in {"__init__", "__new__"}:
        return False
    return not any("property" in ast.unparse(each) for each in node.decorator_list)


def is_verb(word: str) -> bool:
    """Return True for a word that may be a verb in the imperative: no plural, no article, no question, no sign."""
    return re.fullmatch(r"[A-Z][a-z]*([a-rt-z]|ss)(-[a-z]+)?", word) is not None and word not in NO_VERBS


def test_no_docstring_begins_with_a_question() -> None:
    found = {
        f"{name}:{getattr(node, 'lineno', 1)}: {word}"
        for name in sources("appliance", "quantize", "images", "tests")
        for node, word in docstrings((ROOT / name).read_text("utf-8"))
        if word in QUESTIONS
    }
    assert not found


def test_a_functions_docstring_begins_with_a_verb() -> None:
    found = {
        f"{name}:{getattr(node, 'lineno', 1)}: {word}"
        for name in sources("appliance", "quantize", "images")
        for node, word in docstrings((ROOT / name).read_text("utf-8"))
        if is_action(node) and not is_verb(word)
    }
    assert not found


def test_that_verb_is_in_the_imperative() -> None:
    paths = sources("appliance", "quantize", "images")
    ruff = [str(Path(sys.executable).with_name("ruff")), "check", "--select", "D401", "--output-format", "concise"]
    result = subprocess.run([*ruff, *paths], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("word", ["Return", "Pass", "Re-read"])
def test_a_verb_is_taken(word: str) -> None:
    assert is_verb(word)


@pytest.mark.parametrize("word", ["Whether", "The", "Tokens", "(N", "`x`", "201", "int8"])
def test_any_other_beginning_is_refused(word: str) -> None:
    [(node, first)] = list(docstrings(f'def f():\n    """{word} and more."""\n'))
    assert is_action(node)
    assert not is_verb(first)

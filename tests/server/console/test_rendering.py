"""Code with colours, and formulas: rendered in a real browser, and never a way to make a page slow."""

from __future__ import annotations

import random

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, expect

from tests.server.console.test_chat import answer_with, ask

_RENDER = """async (pieces) => {
    await import('/console/formula.js');
    const { Markdown } = await import('/console/markdown.js');
    const { math } = await import('/console/inline.js');
    while (math(document.createElement('code'), 'x', false).localName === 'code') {  // until its maker is loaded
        await new Promise((resolve) => setTimeout(resolve));
    }
    const parent = document.createElement('div');
    document.createElement('div').append(parent);
    const markdown = new Markdown(parent);
    for (const piece of pieces) markdown.add(piece);
    markdown.end();
    return parent.outerHTML;
}"""
_TOKENS = """async ([language, text]) => {
    const { tokens } = await import('/console/code.js');
    return tokens(language, text).map(([kind, start, end]) => [kind, text.slice(start, end)]);
}"""
_FORMULA = """async ([source, isDisplay]) => {
    const { formula } = await import('/console/formula.js');
    return formula(source, isDisplay)?.outerHTML.replace(/ (xmlns|alttext|tabindex|display)="[^"]*"/g, '') ?? null;
}"""


MATRIX = (
    "<mrow><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr>"
    "<mtr><mtd><mn>3</mn></mtd><mtd><mn>4</mn></mtd></mtr></mtable></mrow>"
)


def formula(page: Page, source: str, *, is_display: bool = False) -> str | None:
    made: str | None = page.evaluate(_FORMULA, [source, is_display])
    return made and made.removeprefix("<math><mrow>").removesuffix("</mrow></math>")


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        (
            "python",
            'def f(x): # a "comment"\n    return """x # y""" + 0x1F',
            [
                ["keyword", "def"],
                ["comment", '# a "comment"'],
                ["keyword", "return"],
                ["string", '"""x # y"""'],
                ["number", "0x1F"],
            ],
        ),
        (
            "ts",
            "const a = `x ${1}`; // no\n/* b */ await c",
            [
                ["keyword", "const"],
                ["string", "`x ${1}`"],
                ["comment", "// no"],
                ["comment", "/* b */"],
                ["keyword", "await"],
            ],
        ),
        ("rust", "let mut x = 1.5e3;", [["keyword", "let"], ["keyword", "mut"], ["number", "1.5e3"]]),
        (
            "bash",
            "if [ $# -gt 2 ]; then # x",
            [["keyword", "if"], ["number", "2"], ["keyword", "then"], ["comment", "# x"]],
        ),
        ("sql", "SELECT 'it''s' -- x", [["keyword", "SELECT"], ["string", "'it''s'"], ["comment", "-- x"]]),
        ("json", '{"a": [true, 1]}', [["string", '"a"'], ["keyword", "true"], ["number", "1"]]),
        ("html", '<a href="x"><!-- y -->', [["string", '"x"'], ["comment", "<!-- y -->"]]),
        ("brainfuck", "if x 1", []),
        ("python", "'not closed", [["string", "'not closed"]]),
    ],
)
def test_a_language_has_its_tokens(page: Page, language: str, text: str, expected: list[list[str]]) -> None:
    assert page.evaluate(_TOKENS, [language, text]) == expected


def test_code_gets_colours_without_an_element_and_copies_as_it_was(page: Page) -> None:
    code = "def f():\n    return 'x'  # why\n"
    answer_with(page, f"```python\n{code}```\n\n```js\nlet a = 1")  # the second one is cut
    ask(page, "x")
    expect(page.locator(".message.assistant pre")).to_have_count(2)
    page.wait_for_function("() => CSS.highlights.get('code-keyword')?.size === 3")
    assert page.locator(".message.assistant pre code *").count() == 0
    assert page.locator(".message.assistant pre").first.evaluate("e => e.textContent") == code
    shown = page.evaluate(
        "[...CSS.highlights.get('code-comment')].map((range) => "
        "range.startContainer.data.slice(range.startOffset, range.endOffset))"
    )
    assert shown == ["# why"]
    page.get_by_role("button", name="New chat").click()
    answer_with(page, "```python\nimport x\n```")
    ask(page, "y")
    page.wait_for_function("() => CSS.highlights.get('code-keyword').size === 1")  # those that are gone are let go


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (r"\frac{1}{x+2}", "<mfrac><mn>1</mn><mrow><mi>x</mi><mo>+</mo><mn>2</mn></mrow></mfrac>"),
        (r"\sqrt[3]{x}", "<mroot><mi>x</mi><mn>3</mn></mroot>"),
        (r"x_i^{2}", "<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>"),
        (r"\alpha \leq \Omega", "<mi>α</mi><mo>≤</mo><mi>Ω</mi>"),
        (r"f'(x)", '<msup><mi>f</mi><mo>′</mo></msup><mo stretchy="false">(</mo><mi>x</mi><mo stretchy="false">)</mo>'),
        (r"\mathbb{R}^n", "<msup><mi>ℝ</mi><mi>n</mi></msup>"),
        (r"\text{if } x", "<mtext>if </mtext><mi>x</mi>"),
        (r"\hat{y}", '<mover accent="true"><mi>y</mi><mo stretchy="false">^</mo></mover>'),
        (
            r"\begin{matrix}1 & 2 \\ 3 & 4\end{matrix}",
            MATRIX,
        ),
    ],
)
def test_a_formula_becomes_mathml(page: Page, source: str, expected: str) -> None:
    assert formula(page, source) == expected


def test_limits_stand_above_and_below_a_sum_of_its_own_line(page: Page) -> None:
    source = r"\sum_{i=1}^n i"
    assert "<munderover>" in (formula(page, source, is_display=True) or "")
    assert "<msubsup>" in (formula(page, source) or "")
    assert "<msubsup>" in (formula(page, r"\int_0^1 x\,dx", is_display=True) or "")


@pytest.mark.parametrize(
    "source",
    [
        r"\unknown{x}",
        r"\frac{1}",
        r"{x",
        r"x}",
        r"x^1^2",
        r"\left( x",
        r"\begin{matrix} 1 \end{pmatrix}",
        r"\begin{tikzpicture}\end{tikzpicture}",
        r"\text{\href{x}{y}}",
        "{" * 500,
        "x" * 5000,
    ],
)
def test_what_is_not_understood_is_no_formula(page: Page, source: str) -> None:
    assert formula(page, source) is None


FORMULAS = r"""Inline \(e^{i\pi} + 1 = 0\), also $$a^2$$, and `\(code\)`; it costs $5 and $10.

$$
\sum_{i=1}^{n} i = \frac{n(n+1)}{2}
$$

\[ A = \begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix} \]

\( \unknown{x} \) stays, \*so\* does this, and ~~this~~ goes.

$$
never closed

after it
"""


def test_formulas_of_an_answer_are_mathml_and_prices_and_code_are_not(page: Page) -> None:
    answer_with(page, FORMULAS)
    ask(page, "x")
    text = page.locator(".message.assistant .text")
    expect(text.locator("math")).to_have_count(4)
    expect(text.locator("math[display=block]")).to_have_count(2)
    expect(text).to_contain_text("it costs $5 and $10.")
    expect(text).to_contain_text(r"\( \unknown{x} \) stays, *so* does this")
    expect(text.locator("code", has_text=r"\(code\)")).to_be_visible()
    expect(text.locator("s")).to_have_text("this")
    expect(text.locator("p").last).to_have_text("after it")
    assert text.locator("math").first.get_attribute("alttext") == r"e^{i\pi} + 1 = 0"


def test_formulas_and_code_look_the_same_however_they_were_cut(page: Page) -> None:
    for document in (FORMULAS, FORMULAS + "$$\nx", "```js\nlet a = '\\\\(x\\\\)'\n```\n- a \\(x\\)\n  - b $$y$$\n"):
        assert page.evaluate(_RENDER, [document]) == page.evaluate(_RENDER, list(document))


_PIECES = [
    "**",
    "`",
    "```\n",
    "# ",
    "- ",
    "  - ",
    "1. ",
    "> ",
    "| a | b |\n",
    "|---|---|\n",
    "\\(x^2\\)",
    "$$",
    "\\[",
    "\n",
]
_PIECES += [
    "\n\n",
    "[a](https://b.example)",
    "~~",
    "*",
    "<b>",
    "\\*",
    "word ",
    "https://c.example ",
    "---\n",
    "😀",
    "\t",
    "5 $ ",
]
_ALIKE = """async (documents) => {
    await import('/console/formula.js');
    const { Markdown } = await import('/console/markdown.js');
    const { math } = await import('/console/inline.js');
    while (math(document.createElement('code'), 'x', false).localName === 'code') {
        await new Promise((resolve) => setTimeout(resolve));
    }
    const render = (pieces) => {
        const [frame, parent] = [document.createElement('div'), document.createElement('div')];
        frame.append(parent);
        const markdown = new Markdown(parent);
        for (const piece of pieces) markdown.add(piece);
        markdown.end();
        return frame.innerHTML;
    };
    return documents.filter((text) => render([text]) !== render(text.split('')));
}"""


def test_two_hundred_documents_look_the_same_cut_at_every_character(page: Page) -> None:
    draw = random.Random(18)
    documents = ["".join(draw.choices(_PIECES, k=60)) for _ in range(200)]
    documents += ["\n\n".join(draw.choices(documents, k=8)) for _ in range(20)]  # of more than one part
    assert page.evaluate(_ALIKE, documents) == []


_NEIGHBOURS = """async (text) => {
    const { Markdown } = await import('/console/markdown.js');
    const [frame, parent] = [document.createElement('div'), document.createElement('div')];
    frame.append(parent);
    const markdown = new Markdown(parent);
    markdown.add(text);
    markdown.end();
    const blocks = [...parent.querySelectorAll('p, pre')].map((block) => block.textContent);
    return [blocks, Math.max(...[parent, ...parent.children].map((part) => part.childElementCount))];
}"""


def test_a_long_answer_lies_in_parts_of_few_blocks(page: Page) -> None:
    texts = [f"Paragraph {i}." if i % 50 else f"let a{i};\n" for i in range(1000)]
    answer = "".join(f"{text}\n\n" if i % 50 else f"```js\n{text}```\n" for i, text in enumerate(texts))
    blocks, most = page.evaluate(_NEIGHBOURS, answer)
    assert blocks == texts
    assert most <= 32 + len(texts) / 32


@pytest.mark.parametrize("unit", ["\\(", "$$x", "[", "`", "\\[", "[a]("])
def test_many_signs_without_an_end_stay_text(page: Page, unit: str) -> None:
    text = (unit * 20_000)[:19_000]
    made = page.evaluate(
        """async (text) => {
            const { inline } = await import('/console/inline.js');
            const place = document.createElement('p');
            place.append(...inline(text));
            return place.textContent;
        }""",
        text,
    )
    assert made.replace("$$", "") == text.replace("$$", "")

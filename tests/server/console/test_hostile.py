"""Hostile answers: hundreds of ways to smuggle markup, addresses and scripts into every kind of block."""

from __future__ import annotations

import pytest

from tests.server.console.driver import NO_PLAYWRIGHT

pytest.importorskip("playwright", reason=NO_PLAYWRIGHT)

from playwright.sync_api import Page, expect

_PAYLOADS = [
    "<script>taken()</script>",
    "<img src=https://evil.example/x onerror=taken()>",
    "<svg onload=taken()><use href=https://evil.example/x#a>",
    "<iframe srcdoc='<script>parent.taken()</script>'></iframe>",
    "<a href=javascript:taken()>x</a>",
    "<style>@import 'https://evil.example/x'</style>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<form action=https://evil.example/><button>x",
    "<math><maction xlink:href=javascript:taken()>x",
    "<link rel=prefetch href=https://evil.example/x>",
    "javascript:taken()",
    "JaVaScRiPt:taken()",
    "\x01javascript:taken()",
    "java\tscript:taken()",
    "data:text/html,<script>taken()</script>",
    "vbscript:taken()",
    "blob:https://evil.example/1",
    "file:///etc/passwd",
    "#key=sk-evil",
    "//evil.example/x",
    '" onmouseover="taken()" x="',
    "' onfocus='taken()' autofocus='",
    "&lt;script&gt;taken()&lt;/script&gt;",
    "\\href{javascript:taken()}{x}",
    "{{constructor.constructor('taken()')()}}",
    "${taken()}",
    "__proto__",
]
_PLACES = [
    "{}",
    "[x]({})",
    "![x]({})",
    "[{}](https://good.example/)",
    "<{}>",
    "`{}`",
    "```html\n{}\n```",
    "```{}\nx\n```",
    "| {} |\n|---|\n| {} |",
    "# {}",
    "- {}\n  1. {}",
    "> {}",
    "**{}** ~~{}~~",
    "\\({}\\)",
    "$$\n{}\n$$",
]
_RENDER = """async (documents) => {
    window.taken = () => { window.isTaken = true; };
    await import('/console/formula.js');
    const { Markdown } = await import('/console/markdown.js');
    const { math } = await import('/console/inline.js');
    while (math(document.createElement('code'), 'x', false).localName === 'code') {  // until its maker is loaded
        await new Promise((resolve) => setTimeout(resolve));
    }
    const names = new Set(), attributes = new Set(), links = new Set(), lost = [];
    for (const text of documents) {
        const [frame, parent] = [document.createElement('div'), document.createElement('div')];
        frame.append(parent);
        document.querySelector('.lines').append(frame);
        const markdown = new Markdown(parent);
        markdown.add(text);
        markdown.end();
        for (const e of parent.querySelectorAll('*')) {
            names.add(e.localName);
            for (const { name } of e.attributes) attributes.add(name);
            if (e.localName === 'a') links.add(new URL(e.href).protocol);
        }
        if (!parent.textContent.trim()) lost.push(text);
        frame.remove();
    }
    const all = { names, attributes, links };
    const lists = Object.fromEntries(Object.entries(all).map(([name, set]) => [name, [...set]]));
    return { ...lists, lost, isTaken: window.isTaken ?? false };
}"""
_TEXT = {
    "p",
    "br",
    "strong",
    "em",
    "s",
    "code",
    "pre",
    "a",
    "ul",
    "ol",
    "li",
    "blockquote",
    "h3",
    "div",
    "span",
    "button",
}
_TABLE = {"table", "thead", "tbody", "tr", "th", "td"}
_MATH = {
    "math",
    "mfrac",
    "mi",
    "mn",
    "mo",
    "mover",
    "mroot",
    "mrow",
    "mspace",
    "msqrt",
    "msub",
    "msubsup",
    "msup",
    "mtable",
    "mtd",
    "mtext",
    "mtr",
    "munder",
    "munderover",
}
_ATTRIBUTES = {"class", "dir", "tabindex", "role", "aria-label", "type", "href", "target", "rel", "start"}
_MATH_ATTRIBUTES = {
    "accent",
    "accentunder",
    "alttext",
    "display",
    "form",
    "largeop",
    "mathvariant",
    "movablelimits",
    "stretchy",
    "width",
    "xmlns",
}


def test_hundreds_of_hostile_answers_become_text_and_nothing_else(page: Page) -> None:
    documents = [place.replace("{}", payload) for payload in _PAYLOADS for place in _PLACES]
    expect(page).to_have_title("Chat – Lantern")
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    before = page.title(), page.url
    made = page.evaluate(_RENDER, documents)
    assert len(documents) > 400
    assert set(made["names"]) <= _TEXT | _TABLE | _MATH
    assert set(made["attributes"]) <= _ATTRIBUTES | _MATH_ATTRIBUTES
    assert set(made["links"]) == {"https:"}
    assert made["lost"] == []
    assert not made["isTaken"]
    assert (page.title(), page.url) == before
    assert not [url for url in asked if "/console/" not in url and "/health" not in url]

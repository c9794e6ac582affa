"""Templates and tokenizers with the features of the newer families give the prompts and tokens of transformers 5."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from appliance.text.template import ChatTemplate
from appliance.text.tokenizer import Tokenizer as DeviceTokenizer
from quantize.sources.templates import read_chat_template
from quantize.sources.tokenizer import read_tokenizer
from tests.quantize.proof.environment import proof_python

pytestmark = pytest.mark.slow

_PROGRAM = Path(__file__).with_name("read_texts.py")
_TIMEOUT_S = 300
_VOCAB = 700
_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin|>"]
_PLAIN_MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
_LINES = [
    "The lantern stands on the shelf, and it's waiting; they'll ask again.",
    "def main(argv: list[str]) -> int:\n    return 0 if argv else 1\n",
    "Schöne Grüße aus Köln, 你好世界, привет мир, 12345 + 678 = 13023.",
]
_TEXTS = [
    "",
    " ",
    "a",
    *_LINES,
    "  two  blanks\tand\ttabs \n\n\n lines\r\nof\r\n\r\nWindows  ",
    "It's 2026; IT'S they'Ll WE'RE 1234567 1,234.5e-6 0x1F ½ Ⅻ ٣",
    "e\u0301 and é, Å and A\u030a, ﬁ",  # two spellings of a letter, and a ligature
    "👩‍👩‍👧‍👦 🏳️‍🌈 \u200b\ufeff\u00a0\u2028x",
    "ไทยไม่มีช่องว่าง หนังสือ العربية עברית हिन्दी",
    "!!!???...---===>>> {[()]} </thin <tool_cal",
    "x" * 300 + " " * 40 + "=" * 40,
]
_TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find a <thing> & tell its 'place' – quickly",
        "parameters": {
            "type": "object",
            "properties": {"thing": {"type": "string"}, "limit": {"type": ["integer", "null"], "default": None}},
            "required": ["thing"],
        },
    },
}
_CALL = {
    "type": "function",
    "id": "call00001",
    "function": {"name": "find", "arguments": {"thing": "Öl <x>", "n": 1.5}},
}
_HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": "  Where is it? \n"},
    {"role": "assistant", "content": "On the shelf.", "reasoning_content": "\nThe shelf, I think.\n"},
    {"role": "user", "content": "And the oil? 你好 👋"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL, _CALL]},
    {"role": "tool", "tool_call_id": "call00001", "content": '{"place": "cellar"}'},
    {"role": "tool", "tool_call_id": "call00001", "content": "none\n"},
]
_CHATS: list[dict[str, Any]] = [
    {"messages": _HISTORY[1:2], "tools": None, "extra": {}},
    {"messages": _HISTORY[:4], "tools": None, "extra": {"enable_thinking": False}},
    {"messages": _HISTORY[:4], "tools": [_TOOL], "extra": {"enable_thinking": True}},
    {"messages": _HISTORY, "tools": [_TOOL, _TOOL], "extra": {}},
]

# Reasoning of turns before the last question is dropped, calls are tagged parameters, the answer begins in reasoning.
_TAGGED = """{%- set last = namespace(at=-1) %}
{%- for m in messages[::-1] %}
    {%- if last.at < 0 and m.role == 'user' and m.content is string %}
        {%- set last.at = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- macro shown(value) %}
    {{- value if value is string else value | tojson }}
{%- endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- '\\n' ~ tool | tojson }}
    {%- endfor %}
    {%- if messages[0].role == 'system' %}{{- '\\n\\n' + messages[0].content | trim }}{% endif %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content | trim + '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if m.reasoning_content is defined and loop.index0 > last.at %}
            {{- '<think>\\n' + m.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- m.content.split('</think>')[-1].lstrip('\\n') }}
        {%- for call in m.tool_calls or [] %}
            {{- '\\n<tool_call>\\n<function=' + call.function.name + '>\\n' }}
            {%- for name, value in call.function.arguments | items %}
                {{- '<parameter=' ~ name ~ '>\\n' ~ shown(value) ~ '\\n</parameter>\\n' }}
            {%- endfor %}
            {{- '</function>\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.previtem and loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
        {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n<think>\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

# The first token is the template's, tools stand in the system's text, and what the model said is marked for training.
_PYTHONIC = """{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set ns.system = messages[0]['content'] -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
    {%- set ns.system = ns.system ~ ('\\n' if ns.system) ~ 'List of tools: [' -%}
    {%- for tool in tools -%}
        {%- set ns.system = ns.system ~ (tool if tool is string else tool | tojson) ~ (', ' if not loop.last) -%}
    {%- endfor -%}
    {%- set ns.system = ns.system ~ ']' -%}
{%- endif -%}
{%- if ns.system -%}{{- '<|im_start|>system\\n' + ns.system + '<|im_end|>\\n' -}}{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}
        {{- message['content'] if message['content'] is string else message['content'] | tojson -}}
        {%- for call in message.get('tool_calls') or [] -%}
            {{- call['function'] | tojson(indent=2) -}}
            {%- if loop.index > 1 -%}{%- break -%}{%- endif -%}
        {%- endfor -%}
        {%- endgeneration -%}
    {%- else -%}
        {{- message['content'] | replace('\\r\\n', '\\n') -}}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

# Lines of the template are lines of the prompt, less those that hold a tag alone.
_LINES_OF_TEXT = """{% if tools %}
Tools:
{% for tool in tools %}
  {{ tool.function | tojson(ensure_ascii=False, separators=(',', ':')) }}
{% endfor %}
{% endif %}
{% for m in messages if m.role != 'system' %}
  {% if m.role == 'tool' %}{% continue %}{% endif %}
<|im_start|>{{ m.role | upper }}: {{ m.content | default('-', true) | trim }}<|im_end|>
  {% if m.tool_calls is defined %}
{{ m.tool_calls | map(attribute='function') | map(attribute='name') | join('; ') }}
  {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>ASSISTANT:{{ ' ' if enable_thinking | default(true) else eos_token }}
{% endif %}
"""
_TEMPLATES = {"tagged": _TAGGED, "pythonic": _PYTHONIC, "lines": _LINES_OF_TEXT}


def _byte_level(pattern: str, *, composes: bool, begin: str | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if composes:
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    _train(tokenizer, pre_tokenizers.ByteLevel.alphabet())
    if begin is not None:
        pair = (begin, tokenizer.token_to_id(begin))
        tokenizer.post_processor = processors.TemplateProcessing(f"{begin} $A", f"{begin} $A {begin} $B", [pair])
    return tokenizer


def _sentencepiece() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    _train(tokenizer, [], [f"<0x{byte:02X}>" for byte in range(256)])
    return tokenizer


def _train(tokenizer: Tokenizer, alphabet: list[str], more: list[str] | None = None) -> None:
    specials = [*_SPECIALS, *(more or [])]
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB - 20, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_LINES * 4, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in _PLAIN_MARKS])


_WORDS = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_TOKENIZERS = {
    "one digit, composed": lambda: _byte_level(
        rf"{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", composes=True, begin=None
    ),
    "three digits, a first token": lambda: _byte_level(
        rf"{_WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        composes=False,
        begin="<|begin|>",
    ),
    "bytes where no piece is": _sentencepiece,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints' texts for every template and tokenizer, with what transformers 5 makes of them."""
    python, root = proof_python(), tmp_path_factory.mktemp("published")
    for family, template in _TEMPLATES.items():
        for form, make in _TOKENIZERS.items():
            _write(root / family / form, template, make())
    command = [str(python), "-I", str(_PROGRAM), *map(str, root.glob("*/*"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return root


@pytest.mark.parametrize("form", _TOKENIZERS)
@pytest.mark.parametrize("family", _TEMPLATES)
def test_prompts_and_tokens_are_those_of_transformers_5(family: str, form: str, published: Path) -> None:
    folder = published / family / form
    expected = json.loads((folder / "answer.json").read_text("utf-8"))
    tokenizer = DeviceTokenizer(read_tokenizer(folder, _VOCAB).content)
    source = read_chat_template(folder)
    assert source is not None
    template = ChatTemplate(source, tokenizer.special_tokens, bos_token="<|begin|>", eos_token="<|im_end|>")
    for chat, wanted in zip(_CHATS, expected["chats"], strict=True):
        found = template.render(chat["messages"], tools=chat["tools"], extra=chat["extra"])
        assert found.text == wanted["text"]
        assert list(tokenizer.encode_rendered(found)) == wanted["tokens"]
    assert [list(tokenizer.encode(text)) for text in _TEXTS] == expected["plain"]
    assert [list(tokenizer.encode_framed(text)) for text in _TEXTS] == expected["framed"]


def _write(folder: Path, template: str, tokenizer: Tokenizer) -> None:
    """Write a tokenizer and a template as a checkpoint has them, and the texts."""
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    (folder / "request.json").write_text(json.dumps({"chats": _CHATS, "texts": _TEXTS}), "utf-8")

"""Small chat templates with the rules of the families in use: the same refusals, in a few lines each."""

from __future__ import annotations

CHATML = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""

QWEN = """{% if tools %}<|tools|>{% for t in tools %}{{ t | tojson }}{% endfor %}
{% endif %}{% for m in messages %}
{%- if m.role == 'tool' %}<|user|><result>{{ m.content }}</result>
{% else %}<|{{ m.role }}|>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}
{%- for c in m.tool_calls %}
<call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</call>
{%- endfor %}
{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""

# The system's text is part of the first turn, roles alternate, and there are no tools.
GEMMA = """{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\\n' %}
{%- set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{%- for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}{% endif %}
{%- if m.role not in ['user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}
<|{{ 'model' if m.role == 'assistant' else 'user' }}|>{{ first if loop.first }}{{ m.content }}
{%- endfor %}{% if add_generation_prompt %}
<|model|>{% endif %}"""

GEMMA_1 = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + GEMMA

# Calls and results do not count among the roles, and their ids have nine characters.
MISTRAL = """{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}
{%- else %}{% set system = '' %}{% set rest = messages %}{% endif %}{% set seen = namespace(n=0) %}
{%- for m in rest %}{% if m.role == 'user' or (m.role == 'assistant' and not m.tool_calls) %}
{%- if (m.role == 'user') != (seen.n % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- set seen.n = seen.n + 1 %}{% endif %}{% endfor %}
{%- for m in rest %}{% if m.role == 'user' %}{% if tools and loop.last %}[TOOLS]{{ tools | tojson }}{% endif %}
{%- if loop.last and system %}[SYSTEM]{{ system }}{% endif %}[INST]{{ m.content }}[/INST]
{%- elif m.tool_calls %}{% for c in m.tool_calls %}
{%- if c.id is not defined or c.id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}
[CALL]{{ c.function.name }}{{ c.function.arguments | tojson }}{{ c.id }}{% endfor %}
{%- elif m.role == 'assistant' %} {{ m.content }}</s>
{%- elif m.role == 'tool' %}
{%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}{{ raise_exception('ids have length 9') }}
{%- endif %}[RESULT]{{ m.content }}{{ m.tool_call_id }}
{%- else %}{{ raise_exception('unknown role') }}{% endif %}{% endfor %}"""

# One call in a message, and the first user's message describes the tools.
LLAMA = """{% if messages[0].role == 'system' %}<|system|>{{ messages[0].content }}{% set messages = messages[1:] %}
{%- endif %}{% if tools %}{% if not messages %}{{ raise_exception('no first user message') }}{% endif %}
<|user|>{% for t in tools %}{{ t | tojson }}{% endfor %}{{ messages[0].content }}{% set messages = messages[1:] %}
{%- endif %}{% for m in messages %}{% if m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('single tool-calls only') }}{% endif %}
<|assistant|>{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {
{%- for key, value in m.tool_calls[0].function.arguments.items() %}"{{ key }}": {{ value | tojson }},{% endfor %}}}
{%- elif m.role == 'tool' %}
<|ipython|>{{ m.content }}{% else %}
<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}
<|assistant|>{% endif %}"""

# A conversation without a user's message is refused, and so is everything but an alternation without calls.
NEEDS_USER = (
    """{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}
{{- raise_exception('no user query') }}{% endif %}"""
    + QWEN
)

TEMPLATES = {
    "chatml": CHATML,
    "qwen": QWEN,
    "gemma": GEMMA,
    "gemma 1": GEMMA_1,
    "mistral": MISTRAL,
    "llama": LLAMA,
    "needs a user": NEEDS_USER,
}

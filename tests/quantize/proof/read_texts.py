"""A program of the proofs' own environment: it renders and encodes conversations and texts as transformers 5 does.

It imports nothing of this tree. Arguments: folders with a tokenizer, its chat template, and request.json; it
writes answer.json beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import transformers


def main(folder: Path) -> None:
    """Write the rendered conversations with their tokens, and the tokens of the texts."""
    request = json.loads((folder / "request.json").read_text("utf-8"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rendered = [
        tokenizer.apply_chat_template(
            chat["messages"], tools=chat["tools"], add_generation_prompt=True, tokenize=False, **chat["extra"]
        )
        for chat in request["chats"]
    ]
    answer = {
        "version": transformers.__version__,
        "chats": [
            {"text": text, "tokens": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in rendered
        ],
        "plain": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in request["texts"]],
        "framed": [tokenizer(text)["input_ids"] for text in request["texts"]],
    }
    (folder / "answer.json").write_text(json.dumps(answer), "utf-8")


for argument in sys.argv[1:]:
    main(Path(argument))

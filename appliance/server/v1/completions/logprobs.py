"""Log probabilities in the form of POST /v1/completions: four lists with an entry for each token."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.server.v1.choice import TokenRecord
from appliance.server.v1.completions.response import CompletionLogprobs
from appliance.server.v1.response import LEAST_LOGPROB
from appliance.text.tokenizer import Tokenizer


def logprob_lists(records: Sequence[TokenRecord], tokenizer: Tokenizer, offset: int = 0) -> CompletionLogprobs:
    """Return the lists of tokens of which the first one begins at a character `offset` of the text."""
    lists = _empty_lists()
    for record in records:
        top = record.logprobs.top
        lists["tokens"].append(_text(record.token, tokenizer))
        lists["token_logprobs"].append(max(record.logprobs.logprob, LEAST_LOGPROB))
        lists["top_logprobs"].append({_text(token, tokenizer): max(logprob, LEAST_LOGPROB) for token, logprob in top})
        lists["text_offset"].append(offset)
        offset += num_characters(record, tokenizer)
    return lists


def prompt_logprob_lists(
    prompt: Sequence[int], num_framing: int, records: Sequence[TokenRecord], tokenizer: Tokenizer
) -> CompletionLogprobs:
    """Return the lists of a prompt, but for the first `num_framing` tokens, which the tokenizer added.

    `records` are those from the prompt's second token on: no log probability is known of the first one.
    """
    if len(prompt) == num_framing:
        return _empty_lists()
    if num_framing:
        return logprob_lists(records[num_framing - 1 :], tokenizer)
    first = _empty_lists()
    first["tokens"].append(_text(prompt[0], tokenizer))
    first["token_logprobs"].append(None)
    first["top_logprobs"].append(None)
    first["text_offset"].append(0)
    return joined(first, logprob_lists(records, tokenizer, _num_beginning(tokenizer.token_bytes(prompt[0]))))


def joined(a: CompletionLogprobs, b: CompletionLogprobs) -> CompletionLogprobs:
    """Join the lists of two parts of a text."""
    return {
        "tokens": a["tokens"] + b["tokens"],
        "token_logprobs": a["token_logprobs"] + b["token_logprobs"],
        "top_logprobs": a["top_logprobs"] + b["top_logprobs"],
        "text_offset": a["text_offset"] + b["text_offset"],
    }


def num_characters(record: TokenRecord, tokenizer: Tokenizer) -> int:
    """Return the number of characters that begin in a token."""
    return _num_beginning(tokenizer.token_bytes(record.token)) - (record.start < 0)


def _empty_lists() -> CompletionLogprobs:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _text(token: int, tokenizer: Tokenizer) -> str:
    """Return the text of a token; one that is a part of a character in OpenAI's form: `bytes:` and its bytes."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _num_beginning(data: bytes) -> int:
    return sum(byte & 0xC0 != 0x80 for byte in data)  # a continuation byte (RFC 3629) begins no character

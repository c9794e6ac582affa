"""The log probabilities of chat messages, token by token."""

from __future__ import annotations

from appliance.server.v1.chat.response import TokenLogprob, TopLogprob
from appliance.server.v1.choice import TokenRecord
from appliance.server.v1.response import LEAST_LOGPROB
from appliance.text.tokenizer import Tokenizer


def token_logprob(record: TokenRecord, tokenizer: Tokenizer) -> TokenLogprob:
    """Return a token of a completion with its alternatives."""
    top = [_alternative(token, logprob, tokenizer) for token, logprob in record.logprobs.top]
    return {**_alternative(record.token, record.logprobs.logprob, tokenizer), "top_logprobs": top}


def _alternative(token: int, logprob: float, tokenizer: Tokenizer) -> TopLogprob:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(data)}

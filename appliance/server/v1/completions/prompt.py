"""The prompts of a completion request: texts are encoded as they stand, tokens are checked."""

from __future__ import annotations

from appliance.errors import InvalidRequestError
from appliance.models import ChatModel
from appliance.server.v1.completions.wire import MAX_PROMPTS, CompletionsRequest
from appliance.server.v1.completions.writer import Echo
from appliance.server.v1.tokens import MAX_CHARACTERS_PER_TOKEN, are_tokens, no_text_or_tokens


def encode_prompts(model: ChatModel, wire: CompletionsRequest) -> list[Echo]:
    """Return the tokens of each prompt with its text; takes milliseconds, so never on the event loop.

    Raises:
        ContextLengthError: a prompt leaves no room for a completion.
        InvalidRequestError: a prompt that is neither a string nor tokens of this model.
    """
    value = wire.prompt
    if isinstance(value, str) or are_tokens(value):
        return [_encode(model, value, "prompt")]
    if not value or len(value) > MAX_PROMPTS:
        raise InvalidRequestError(f"Invalid 'prompt': 1 to {MAX_PROMPTS} prompts are taken.", param="prompt")
    return [_encode(model, item, f"prompt[{i}]") for i, item in enumerate(value)]


def _encode(model: ChatModel, value: object, param: str) -> Echo:
    if isinstance(value, str):
        echo = _encode_text(model, value, param)
    elif are_tokens(value):
        echo = _check_tokens(model, tuple(value), param)
    else:
        raise no_text_or_tokens(param)
    model.engine.check(len(echo.tokens), param=param)
    return echo


def _encode_text(model: ChatModel, text: str, param: str) -> Echo:
    if len(text) > model.engine.capacity * MAX_CHARACTERS_PER_TOKEN:
        model.engine.check(len(text), param=param)
    tokens = model.tokenizer.encode_framed(text)
    num_framing = len(tokens) - len(model.tokenizer.encode(text))
    if not tokens:  # as OpenAI does, an empty prompt is the beginning of a document
        spec = model.spec
        tokens = (spec.bos_token_id if spec.bos_token_id is not None else spec.eos_token_ids[0],)
    return Echo(text, tokens, num_framing)


def _check_tokens(model: ChatModel, tokens: tuple[int, ...], param: str) -> Echo:
    model.engine.check(len(tokens), param=param)
    if not all(0 <= token < model.tokenizer.vocab_size for token in tokens):
        raise InvalidRequestError(f"Invalid '{param}': a token is not in the vocabulary.", param=param)
    text = b"".join(map(model.tokenizer.token_bytes, tokens)).decode("utf-8", "replace")
    return Echo(text, tokens, num_framing=0)

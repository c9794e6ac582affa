"""generation_config.json: the tokens that begin and end a text, sampling defaults, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantize.sources.fields import Fields

_ORIGIN = "tells where the file comes from"
_OTHER = "a request's own parameter here"
_RUNTIME = "tells another program how to run the model"
_DECODING = "a way of decoding that the engine does not have"

IGNORED: Mapping[str, str] = {
    "_from_model_config": _ORIGIN,
    "transformers_version": _ORIGIN,
    "_commit_hash": _ORIGIN,
    "pad_token_id": "no graph reads padding",
    "decoder_start_token_id": "only models with an encoder read it",
    "trust_remote_code": _RUNTIME,
    "chat_format": _ORIGIN,
    "use_cache": _RUNTIME,
    "cache_implementation": _RUNTIME,
    "disable_compile": _RUNTIME,
    "max_length": _OTHER,
    "max_new_tokens": _OTHER,
    "min_length": _OTHER,
    "min_new_tokens": _OTHER,
    "max_window_size": _RUNTIME,
    "repetition_penalty": _OTHER,
    "presence_penalty": _OTHER,
    "frequency_penalty": _OTHER,
    "min_p": _DECODING,
    "typical_p": _DECODING,
    "epsilon_cutoff": _DECODING,
    "eta_cutoff": _DECODING,
    "num_beams": _DECODING,
    "num_beam_groups": _DECODING,
    "length_penalty": _DECODING,
    "early_stopping": _DECODING,
    "no_repeat_ngram_size": _DECODING,
    "num_return_sequences": _OTHER,
    "renormalize_logits": _DECODING,
    "output_attentions": _RUNTIME,
    "output_hidden_states": _RUNTIME,
    "output_scores": _RUNTIME,
    "return_dict_in_generate": _RUNTIME,
    "assistant_confidence_threshold": _DECODING,
    "num_assistant_tokens": _DECODING,
}
SAMPLING = ("do_sample", "temperature", "top_p", "top_k")
# Each changes what the model writes in a way that no bundle can say.
_MUST_BE_EMPTY = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "forced_decoder_ids",
    "bad_words_ids",
    "sequence_bias",
    "exponential_decay_length_penalty",
    "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size",
    "guidance_scale",
    "watermarking_config",
    "constraints",
    "force_words_ids",
    "stop_strings",
)


@dataclass(frozen=True, slots=True)
class Generation:
    """The tokens that begin and end a text, the sampling defaults, and what was left out with the reason."""

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    sampling: Mapping[str, Any]
    left_out: Mapping[str, str]


def read_generation(fields: Fields, vocab_size: int) -> Generation:
    """Read the whole file.

    Raises:
        QuantizeError: a key is not known, or a token is out of range.
    """
    for name in _MUST_BE_EMPTY:
        fields.absent(name)
    bos, eos = fields.token("bos_token_id", vocab_size), fields.tokens("eos_token_id", vocab_size)
    sampling = {name: value for name in SAMPLING if (value := fields.value(name)) is not None}
    return Generation(bos, eos, sampling, fields.left_out(IGNORED))

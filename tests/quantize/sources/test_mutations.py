"""A changed checkpoint gives the same model or a refusal that names what is wrong, and never another model.

LANTERN_MUTATIONS sets how many changes are tried of each kind and architecture (default 4; 12 makes over 2,000).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import QuantizeError
from tests.quantize.newer import NEWER_DECODERS, write_newer
from tests.quantize.sources.mutations import KINDS, Original, mutated, reading_of
from tests.quantize.tiny import (
    BUILT_DECODERS,
    DECODERS,
    GRANITE_EXPERTS,
    GRANITE_HYBRID,
    write_decoder,
    write_encoder,
    write_reranker,
)

_ENCODERS = ("bert", "roberta", "xlm-roberta", "mpnet", "nomic_bert", "modernbert")
_RERANKERS = ("bert reranker", "xlm-roberta reranker", "modernbert reranker")
_BIASED = ("llama with biases", "qwen2 with a window", "granite 4 hybrid", "granite 4 with experts")
_NUM_EXAMPLES = int(os.environ.get("LANTERN_MUTATIONS", "4"))


@pytest.fixture(
    scope="module", params=[*sorted(DECODERS | BUILT_DECODERS | NEWER_DECODERS), *_BIASED, *_ENCODERS, *_RERANKERS]
)
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Original:
    name, folder = str(request.param), tmp_path_factory.mktemp("original") / "model"
    if name == _BIASED[0]:
        write_decoder(folder, "llama", attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5, rope_theta=5e5)
    elif name == _BIASED[1]:
        kinds = ["full_attention", "sliding_attention"]
        write_decoder(folder, "qwen2", use_sliding_window=True, sliding_window=8, layer_types=kinds, rope_theta=1e6)
    elif name == _BIASED[2]:
        write_decoder(folder, "granitemoehybrid", **GRANITE_HYBRID)
    elif name == _BIASED[3]:
        write_decoder(folder, "granitemoehybrid", **GRANITE_EXPERTS)
    elif name in DECODERS | BUILT_DECODERS:
        write_decoder(folder, name)
    elif name in NEWER_DECODERS:
        write_newer(folder, name)
    elif name in _RERANKERS:
        write_reranker(folder, name.split()[0])
    else:
        write_encoder(folder, name)
    return Original.of(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_gives_the_same_model_or_a_refusal_that_names_it(
    original: Original, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = tmp_path_factory.mktemp("changed") / "model"

    @settings(
        max_examples=_NUM_EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(pick=st.integers(0, 10_000), variant=st.integers(0, 10_000))
    def check(pick: int, variant: int) -> None:
        outcome_is_right(original, kind, pick, variant, target)

    check()


def test_every_key_and_every_tensor_can_be_lost(original: Original, tmp_path: Path) -> None:
    for kind, count in (("drop key", len(original.config)), ("drop tensor", len(original.tensors))):
        for pick in range(count):
            outcome_is_right(original, kind, pick, 0, tmp_path / "model")


def outcome_is_right(original: Original, kind: str, pick: int, variant: int, target: Path) -> None:
    culprits = mutated(original, kind, pick, variant, target)
    refusal = None
    try:
        reading = reading_of(target)
    except QuantizeError as err:
        refusal = err.message
    if refusal is None:
        assert reading == original.reading, (kind, culprits)
    else:
        assert "\n" not in refusal
        assert any(name.lower() in refusal.lower() for name in culprits), (kind, culprits, refusal)

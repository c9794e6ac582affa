"""Keys that are left out change no number: torch, which reads the published file by itself, is the witness."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quantize.quiet import quiet
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.prepare import prepare
from tests.quantize.tiny import DECODERS, write_decoder, write_encoder

_ROW = np.random.default_rng(0).integers(3, 320, 40)
_ENCODERS = ("bert", "roberta", "xlm-roberta", "mpnet", "modernbert")
# Changing these alone is refused by transformers or by torch, not because of their meaning.
_NOT_TRIED = frozenset({"dtype", "transformers_version", "pad_token_id", "label2id", "id2label", "reference_compile"})


@pytest.mark.parametrize("architecture", [*sorted(DECODERS), *_ENCODERS])
def test_every_key_that_is_left_out_changes_nothing(architecture: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    is_decoder = architecture in DECODERS
    write_decoder(folder, architecture) if is_decoder else write_encoder(folder, architecture)
    before = outputs(folder, is_decoder=is_decoder)
    names = [name.removeprefix("config.json: ") for name in read_checkpoint(folder).left_out]
    raw = json.loads((folder / "config.json").read_text())
    changed = {name: other(raw[name]) for name in names if name in raw and name not in _NOT_TRIED}
    assert changed
    shutil.copytree(folder, tmp_path / "changed")
    (tmp_path / "changed" / "config.json").write_text(json.dumps({**raw, **changed}))
    np.testing.assert_array_equal(outputs(tmp_path / "changed", is_decoder=is_decoder), before)


@pytest.mark.parametrize("architecture", [*sorted(DECODERS), *_ENCODERS])
def test_the_canonical_folder_is_the_same_model(architecture: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    is_decoder = architecture in DECODERS
    write_decoder(folder, architecture) if is_decoder else write_encoder(folder, architecture)
    (tmp_path / "canonical").mkdir()
    prepare(read_checkpoint(folder), tmp_path / "canonical")
    after = outputs(tmp_path / "canonical", is_decoder=is_decoder)
    np.testing.assert_array_equal(after, outputs(folder, is_decoder=is_decoder))


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value + 0.125
    return value + 1 if isinstance(value, int) else value


def outputs(folder: Path, *, is_decoder: bool) -> NDArray[np.float32]:
    with quiet():
        import torch
        from transformers import AutoModel, AutoModelForCausalLM

        kind = AutoModelForCausalLM if is_decoder else AutoModel
        model = kind.from_pretrained(folder, attn_implementation="eager").eval()
        with torch.no_grad():
            found = model(torch.from_numpy(_ROW)[None], return_dict=True)
            values: NDArray[np.float32] = (found.logits if is_decoder else found.last_hidden_state)[0].numpy()
    return values

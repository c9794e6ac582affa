"""The known holes of the locked transformers 4.57 and torch 2.13, by number: a checkpoint can reach none of them.

What transformers would do with each file is shown first where that needs no network, so that the tests can fail.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from appliance.errors import QuantizeError
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.prepare import prepare
from quantize.witness.published import decoder_places
from tests.quantize.tiny import write_decoder

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_HUB_CODE = "somebody/attention"
_KERNELS = """
import os, pathlib
class _Any:
    def __init__(self, *args, **kwargs): pass
    def __or__(self, other): return self
    __ror__ = __or__
class Mode:
    INFERENCE = TRAINING = TORCH_COMPILE = _Any()
Device = LayerRepository = _Any
def register_kernel_mapping(*args, **kwargs): pass
def replace_kernel_forward_from_hub(*args, **kwargs): pass
def use_kernel_forward_from_hub(*args, **kwargs): return lambda cls: cls
def get_kernel(repo_id, revision=None, **kwargs):
    pathlib.Path(os.environ["MARKER"]).write_text(repo_id)
    raise RuntimeError("this would have run code of " + repo_id)
"""
_LOAD = """
import contextlib, sys
from pathlib import Path
import numpy as np
from appliance.errors import QuantizeError
from quantize.witness.layers import published_logits
from quantize.witness.published import Published, decoder_places
source, checkpoint, is_control = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "control"
for place in [Published(source, "source")] if is_control else decoder_places(source, checkpoint):
    with contextlib.suppress(QuantizeError):
        published_logits(place, source, np.ones(4, np.int64), np.zeros(1, np.int64))
    print(place.read)
"""


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_decoder(tmp_path / "llama", "llama")


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def prepared(folder: Path, target: Path) -> Path:
    target.mkdir()
    prepare(read_checkpoint(folder), target)
    return target


def reads(llama: Path, checkpoint: Path, tmp_path: Path, how: str) -> tuple[list[str], bool]:
    """Load in a process where a package `kernels` is installed; return the places, and if code was asked for."""
    packages, marker = tmp_path / "packages", tmp_path / f"marker-{how}"
    (packages / "kernels").mkdir(parents=True, exist_ok=True)
    (packages / "kernels/__init__.py").write_text(_KERNELS)
    (packages / "kernels-9.0.dist-info").mkdir(exist_ok=True)
    (packages / "kernels-9.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 9.0\n")
    path = os.pathsep.join([str(packages), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", _LOAD, str(llama), str(checkpoint), how],
        env={**os.environ, "PYTHONPATH": path, "MARKER": str(marker)},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.split(), marker.exists()


@pytest.mark.parametrize("key", ["_attn_implementation_internal", "_attn_implementation"])
def test_cve_2026_4372_a_configuration_cannot_choose_code_for_attention(llama: Path, tmp_path: Path, key: str) -> None:
    change_config(llama, **{key: _HUB_CODE})
    checkpoint = prepared(llama, tmp_path / "checkpoint")
    assert _HUB_CODE not in (checkpoint / "config.json").read_text()
    assert reads(llama, checkpoint, tmp_path, "control") == (["source"], True), "transformers is as it is known to be"
    assert reads(llama, checkpoint, tmp_path, "ours") == (["canonical"], False)


def test_cve_2026_9856_a_chat_templates_name_is_no_path(llama: Path, tmp_path: Path) -> None:
    outside = tmp_path / "written-outside"
    model = json.loads((llama / "tokenizer.json").read_text())["model"]
    (llama / "tokenizer.json").unlink()
    (llama / "vocab.json").write_text(json.dumps(model["vocab"]))
    (llama / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"])]))
    templates = [{"name": "default", "template": "x"}, {"name": str(outside), "template": "code"}]
    settings = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>", "chat_template": templates}
    (llama / "tokenizer_config.json").write_text(json.dumps(settings))
    found = prepared(llama, tmp_path / "checkpoint")
    assert Tokenizer.from_file(str(found / "tokenizer.json")).get_vocab_size() > 0
    assert (found / "chat_template.jinja").read_text() == "x"
    assert not list(tmp_path.glob("written-outside*"))


@pytest.mark.parametrize("model_type", ["lightglue", "sew", "sew-d", "hubert", "perceiver", "xclip", "transfo-xl"])
def test_cve_2026_5241_and_2025_14926_to_14928_only_known_kinds_of_models_are_read(
    llama: Path, model_type: str
) -> None:
    """LightGlue's configuration loads code; the others' converters run texts or unpickle what they are given."""
    change_config(llama, model_type=model_type, trust_remote_code=True)
    with pytest.raises(QuantizeError, match=model_type):
        read_checkpoint(llama)


class _Payload:
    """An object whose unpickling leaves a mark."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"import pathlib; pathlib.Path({str(self.marker)!r}).touch()",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "training_args.bin", "rng_state.pth", "optimizer.pt", "mp.pkl"])
def test_cve_2026_1839_and_2025_14920_to_14930_nothing_is_unpickled(llama: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "unpickled"
    (llama / name).write_bytes(pickle.dumps(_Payload(marker)))
    checkpoint = prepared(llama, tmp_path / "checkpoint")
    assert not (checkpoint / name).exists()
    reads(llama, checkpoint, tmp_path, "ours")
    assert not marker.exists()
    pickle.loads((llama / name).read_bytes())
    assert marker.exists(), "the payload works"


def test_weights_that_are_only_pickled_are_refused(llama: Path, tmp_path: Path) -> None:
    (llama / "model.safetensors").unlink()
    (llama / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload(tmp_path / "unpickled")))
    with pytest.raises(QuantizeError, match="no safetensors file"):
        read_checkpoint(llama)
    assert not (tmp_path / "unpickled").exists()


def test_code_beside_the_weights_is_never_run(llama: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (llama / "modeling_own.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    change_config(llama, auto_map={"AutoModelForCausalLM": "modeling_own.Own", "AutoConfig": "modeling_own.Config"})
    checkpoint = prepared(llama, tmp_path / "checkpoint")
    assert "auto_map" not in (checkpoint / "config.json").read_text()
    reads(llama, checkpoint, tmp_path, "ours")
    assert not marker.exists()


def test_a_plain_source_is_still_read_itself(llama: Path, tmp_path: Path) -> None:
    checkpoint = prepared(llama, tmp_path / "checkpoint")
    assert [place.read for place in decoder_places(llama, checkpoint)] == ["source", "canonical"]


@pytest.mark.parametrize("package", ["quantize", "appliance"])
def test_cve_2026_136426_and_136427_no_code_of_ours_loads_programs_or_pickles(package: str) -> None:
    """PyTorch's PT2 files and compiled packages, TorchScript and pickles run code when they are loaded."""
    loaders = re.compile(
        r"(torch(\.\w+)*\.\w*load\w*|pickle\.\w*loads?|joblib\.load|aoti_load_package|np\.load|\w+\.Unpickler)$"
    )
    assert all(map(loaders.fullmatch, ("torch.load", "torch.export.load", "torch.jit.load", "pickle.loads", "np.load")))
    found = {
        f"{path.relative_to(_ROOT)}:{node.lineno}: {name}"
        for path in (_ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and loaders.fullmatch(name := ast.unparse(node.func)) and not _is_plain(node)
    }
    assert not found


def _is_plain(call: ast.Call) -> bool:
    """Tell if numpy loads without pickles, which is its default."""
    asked = {word.arg: ast.unparse(word.value) for word in call.keywords}
    return ast.unparse(call.func) == "np.load" and asked.get("allow_pickle", "False") == "False"

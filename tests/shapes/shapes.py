"""Random decoders of a given shape in bundles, quantized to four bits and prepared as a device prepares them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from appliance.bundle import (
    Bundle,
    DecoderSpec,
    Manifest,
    SigningKey,
    TrustedKeys,
    open_bundle,
    write_bundle,
)
from appliance.bundle.folder import describe_files
from appliance.bundle.manifest import (
    CHAT_TEMPLATE_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    SIGNATURE_NAME,
    TOKENIZER_NAME,
    Source,
)
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.prepacked import prepacked
from quantize.builder.decoder import build_decoder
from quantize.builder.weights import checkpoint_weights
from quantize.graph.codec import round_to_nearest
from quantize.graph.files import save_graph
from quantize.precision.matrices import quantize_graph
from quantize.sources.census import decoder_shapes
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.decoder_keys import read_decoder_keys
from quantize.sources.prepare import prepare
from quantize.sources.tensors import TensorWriter
from quantize.spec import graph_spec
from tests.quantize.tiny import write_tokenizer

Config = dict[str, Any]

_VOCAB = 32768
_COMMON: Config = {
    "bos_token_id": 1,
    "eos_token_id": 0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "vocab_size": _VOCAB,
}


def llama(width: int = 1024, layers: int = 22) -> Config:
    """Return a plain decoder of attention; of 0.3 G values with the default width."""
    return {
        **_COMMON,
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "model_type": "llama",
        "num_attention_heads": width // 64,
        "num_hidden_layers": layers,
        "num_key_value_heads": max(1, width // 256),
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 1e6,
    }


def lfm2(width: int = 1024, layers: int = 16) -> Config:
    """Return a decoder as LFM2 350M is one: ten short convolutions and six layers of attention."""
    kinds = ["full_attention" if layer in (2, 5, 8, 10, 12, 14) else "conv" for layer in range(layers)]
    return {
        **_COMMON,
        "architectures": ["Lfm2ForCausalLM"],
        "block_auto_adjust_ff_dim": False,
        "block_ff_dim": 9 * width // 2,
        "conv_L_cache": 3,
        "conv_bias": False,
        "hidden_size": width,
        "intermediate_size": 9 * width // 2,
        "layer_types": kinds,
        "model_type": "lfm2",
        "norm_eps": 1e-5,
        "num_attention_heads": width // 64,
        "num_hidden_layers": layers,
        "num_key_value_heads": width // 128,
        "rope_theta": 1e6,
    }


def qwen35(width: int = 1024, layers: int = 16) -> Config:
    """Return a decoder as Qwen3.5 0.8B is one, with fewer layers: three of four have a linear attention."""
    kinds = ["full_attention" if layer % 4 == 3 else "linear_attention" for layer in range(layers)]
    return {
        **_COMMON,
        "architectures": ["Qwen3_5ForCausalLM"],
        "attention_bias": False,
        "attn_output_gate": True,
        "full_attention_interval": 4,
        "head_dim": 256,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": 5 * width // 2,
        "layer_types": kinds,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": width // 64,
        "linear_num_value_heads": width // 64,
        "linear_value_head_dim": 128,
        "model_type": "qwen3_5_text",
        "num_attention_heads": max(1, width // 128),
        "num_hidden_layers": layers,
        "num_key_value_heads": max(1, width // 512),
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "mrope_section": [11, 11, 10],
            "partial_rotary_factor": 0.25,
            "rope_theta": 1e7,
            "rope_type": "default",
        },
    }


SHAPES = {"llama": llama, "lfm2": lfm2, "qwen3.5": qwen35}


@dataclass(frozen=True, slots=True)
class Shaped:
    """A model of a shape, in a bundle, and the folder of its prepacked forms."""

    bundle: Bundle
    cache: Path

    @property
    def name(self) -> str:
        """Return the bundle's name, which tells the shape and its size."""
        return self.bundle.name

    @property
    def spec(self) -> DecoderSpec:
        """Return what the manifest says of the model."""
        assert isinstance(self.bundle.manifest.model, DecoderSpec)
        return self.bundle.manifest.model

    def file(self) -> ModelFile:
        """Prepare it as a device does, once, and return the form that was chosen."""
        return prepacked(self.bundle, self.cache, use_device=False)

    def runner(self, *, num_slots: int, capacity: int, checkpoint_bytes: int = 256 << 20) -> OrtModelRunner:
        """Load it with the threads that suit it."""
        file = self.file()
        return OrtModelRunner(
            file,
            self.spec,
            num_slots=num_slots,
            capacity=capacity,
            num_threads=file.tuning.num_threads,
            spinning=file.tuning.spinning,
            checkpoint_bytes=checkpoint_bytes,
        )


def bundled(name: str, folder: Path, root: Path, spec: DecoderSpec) -> Shaped:
    """Sign the model in a folder, with a key below `root`."""
    key, trusted = SigningKey.load_or_create(root / "signing.pem"), TrustedKeys.load(root / "trusted")
    trusted.add(key.public)
    signed = {MANIFEST_NAME, SIGNATURE_NAME}
    manifest = Manifest(
        name=name,
        model=spec,
        files=describe_files(folder, {path.name for path in folder.iterdir()} - signed),
        license="MIT",
        source=Source(uri="random weights"),
    )
    write_bundle(folder, manifest, key)
    return Shaped(open_bundle(folder, trusted), root / "cache")


def write_checkpoint(folder: Path, config: Config) -> Path:
    """Write a checkpoint with random weights of a size that keeps the values of each layer near one."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 0}))
    rng, shapes = np.random.default_rng(0), decoder_shapes(read_decoder_keys(config).config)
    with TensorWriter(folder / "model.safetensors", shapes) as writer:
        for name, shape in shapes.items():
            scale = 0.02 if len(shape) == 1 else shape[-1] ** -0.5
            values = rng.standard_normal(shape, np.float32) * np.float32(scale)
            is_plain_norm = "norm" in name and config["model_type"] != "qwen3_5_text"  # Qwen3.5's are 1 + w
            if is_plain_norm or name.endswith("linear_attn.norm.weight"):
                values += 1
            writer.write(name, values)
    write_tokenizer(folder)
    return folder


def shaped(root: Path, name: str, config: Config, *, context: int = 8192) -> Shaped:
    """Return the model of a shape below `root`, which is made once; `name` tells the shape and its size."""
    home = root / name
    if (home / "trusted").exists():
        return Shaped(open_bundle(home / "model", TrustedKeys.load(home / "trusted")), home / "cache")
    shutil.rmtree(home, ignore_errors=True)
    checkpoint = home / "checkpoint"
    checkpoint.mkdir(parents=True)
    prepare(read_checkpoint(write_checkpoint(home / "published", config)), checkpoint)
    _quantize(checkpoint, home, context)
    spec = graph_spec(read_decoder_config(checkpoint), checkpoint, context)
    for folder in ("published", "checkpoint"):
        shutil.rmtree(home / folder)
    return bundled(name, home / "model", home, spec)


def _quantize(checkpoint: Path, home: Path, context: int) -> None:
    built, target = home / "float", home / "model"
    for folder in (built, target):
        folder.mkdir()
    config = read_decoder_config(checkpoint)
    build_decoder(checkpoint_weights(checkpoint), config, built, context_length=context)
    model = ir.load(built / MODEL_NAME)
    shared = quantize_graph(model, lambda matrix: [round_to_nearest(matrix.view(), 8 if matrix.is_head else 4)])
    save_graph(model, target, shared)
    del model
    shutil.rmtree(built)
    for name in (TOKENIZER_NAME, CHAT_TEMPLATE_NAME):
        shutil.copyfile(checkpoint / name, target / name)

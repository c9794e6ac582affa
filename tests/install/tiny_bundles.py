"""Bundles of a few kilobytes with a real graph and a real tokenizer, sound or harmed, and a device for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from appliance.bundle import BundleStore, EncoderSpec, Manifest, SigningKey, TrustedKeys
from appliance.bundle.folder import describe_files, write_bundle
from appliance.bundle.manifest import Source

DIMENSIONS = 8
_WORDS = ("[UNK]", "The", "lantern", "on", "the", "shelf", "light", "house")

Change = Callable[[onnx.ModelProto, Path], None]


def encoder_graph(seed: int) -> onnx.ModelProto:
    """Mean of the tokens' rows of a table, of unit length; nothing depends on the batch."""
    table = np.random.default_rng(seed).normal(size=(len(_WORDS), DIMENSIONS)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide_mask"]),
        helper.make_node("Mul", ["rows", "wide_mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "first"], ["sum"], keepdims=0),
        helper.make_node("LpNormalization", ["sum"], ["sentence_embedding"], axis=-1, p=2),
    ]
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["B", "S"]) for n in ("input_ids", "attention_mask")]
    vectors = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["B", DIMENSIONS])
    constants = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([-1], np.int64), "last"),
        numpy_helper.from_array(np.array([1], np.int64), "first"),
    ]
    graph = helper.make_graph(nodes, "tiny", ids, [vectors], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class TinyDevice:
    """A key, a store that trusts it, and folders with bundles that were signed by it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = SigningKey.load_or_create(root / "signing.pem")
        self.trusted = root / "home" / "keys" / "trusted"
        trusted = TrustedKeys.load(self.trusted)
        trusted.add(self.key.public)
        self.store = BundleStore(root / "home" / "bundles", trusted)

    def make(
        self,
        seed: int = 0,
        *,
        name: str = "tiny",
        change: Change = lambda _model, _folder: None,
        graph: bytes | None = None,
        tokenizer: str | None = None,
        padding: bytes = b"",
        report: str = "",
        key: SigningKey | None = None,
    ) -> Path:
        """A bundle's folder; `padding` is one more file, to make it as large as a test needs."""
        folder = self.root / "made" / f"{name}-{seed}-{len(list(self.root.glob('made/*')))}"
        folder.mkdir(parents=True)
        model = encoder_graph(seed)
        change(model, folder)
        (folder / "model.onnx").write_bytes(model.SerializeToString() if graph is None else graph)
        words = Tokenizer(WordLevel({w: i for i, w in enumerate(_WORDS)}, unk_token="[UNK]"))
        words.pre_tokenizer = Whitespace()
        (folder / "tokenizer.json").write_text(words.to_str() if tokenizer is None else tokenizer, "utf-8")
        if padding:
            (folder / "padding.bin").write_bytes(padding)
        if report:
            (folder / "report.html").write_text(report, "utf-8")
        manifest = Manifest(
            name=name,
            model=EncoderSpec(architecture="bert", dimensions=DIMENSIONS, max_tokens=16),
            files=describe_files(folder, [p.name for p in folder.iterdir()]),
            license="MIT",
            source=Source(uri="here"),
        )
        write_bundle(folder, manifest, key or self.key)
        return folder

    def stranger(self) -> SigningKey:
        return SigningKey.load_or_create(self.root / "stranger.pem")

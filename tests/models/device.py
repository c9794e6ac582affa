"""A device whose models only count."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from appliance.bundle import Bundle, BundleStore, DecoderSpec, EncoderSpec, Manifest, SigningKey, TrustedKeys
from appliance.bundle.folder import describe_files, write_bundle
from appliance.bundle.manifest import KV_SCALES_NAME, Source
from appliance.engine.engine import Engine
from appliance.engine.loop import AsyncEngine
from appliance.engine.texts.loop import AsyncTextModel
from appliance.engine.types import StepPlan
from appliance.models import ChatModel, EmbeddingModel, EngineSettings, LoadedModel, ModelPool, PoolSettings
from tests.bundle.workshop import install_untried
from tests.engine.fake_runner import CountingRunner

SETTINGS = EngineSettings(num_slots=2, context_length=256)
PLENTY = 1 << 34


def embed_by_length(sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """A vector of one number, the length of its text."""
    return np.array([[len(s)] for s in sequences], np.float32)


class SteppingRunner(CountingRunner):
    """Makes as many steps as the semaphore has permits."""

    def __init__(self, steps: threading.Semaphore, *, num_slots: int, capacity: int) -> None:
        super().__init__(num_slots=num_slots, capacity=capacity)
        self._steps = steps

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        assert self._steps.acquire(timeout=10)
        return super().run(plan)


class LingeringEmbedder(AsyncTextModel[Sequence[int]]):
    """Its thread ends when the test lets it."""

    may_leave: threading.Event

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.may_leave.wait, 10)
        await super().__aexit__(kind, value, trace)


class Device:
    """A store with bundles of a few bytes, and models behind them that only count."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = SigningKey.load_or_create(root / "signing.pem")
        trusted = TrustedKeys.load(root / "trusted")
        trusted.add(self.key.public)
        self.store = BundleStore(root / "store", trusted)
        self.loads: list[str] = []
        self.cache_types: list[str] = []
        self.fast_prompts: list[bool] = []
        self.may_load = threading.Event()
        self.may_load.set()
        self.may_leave = threading.Event()
        self.may_leave.set()
        self.steps: threading.Semaphore | None = None

    def install(
        self,
        name: str,
        *,
        kind: str = "decoder",
        content: bytes = b"weights",
        has_scales: bool = False,
        max_tokens: int = 8,
    ) -> Bundle:
        folder = self.root / f"made-{len(list(self.root.iterdir()))}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(content)
        (folder / "tokenizer.json").write_bytes(b"{}")
        names = ["model.onnx", "tokenizer.json", *([KV_SCALES_NAME] if has_scales else [])]
        if has_scales:
            (folder / KV_SCALES_NAME).write_bytes(b"scales")
        decoder = DecoderSpec(
            architecture="llama",
            context_length=256,
            vocab_size=1000,
            num_layers=2,
            num_kv_heads=2,
            head_dim=64,
            eos_token_ids=(0,),
        )
        encoder = EncoderSpec(architecture="bert", dimensions=4, max_tokens=max_tokens)
        manifest = Manifest(
            name=name,
            model=decoder if kind == "decoder" else encoder,
            files=describe_files(folder, names),
            license="MIT",
            source=Source(uri="here"),
        )
        write_bundle(folder, manifest, self.key)
        return install_untried(self.store, folder)

    def pool(self, *, free_bytes: Callable[[], int] = lambda: PLENTY, **settings: Any) -> ModelPool:
        aliases = settings.pop("aliases", {})
        return ModelPool(
            self.store,
            cache=self.root,
            settings=SETTINGS,
            aliases=aliases,
            on_failure=print,
            pool_settings=PoolSettings(**settings),
            free_bytes=free_bytes,
            load=self.load,
        )

    def load(
        self, bundle: Bundle, settings: EngineSettings, *, cache: Path, on_failure: Callable[[BaseException], None]
    ) -> LoadedModel:
        assert self.may_load.wait(10)
        self.loads.append(bundle.name)
        self.cache_types.append(settings.kv_cache)
        self.fast_prompts.append(settings.fast_prompts)
        spec = bundle.manifest.model
        nothing = cast("Any", None)
        if isinstance(spec, EncoderSpec):
            spec = spec.model_copy(update={"max_tokens": settings.max_text_tokens or spec.max_tokens})
            embedder = LingeringEmbedder(embed_by_length, name=bundle.name, on_failure=on_failure)
            embedder.may_leave = self.may_leave
            return EmbeddingModel(bundle, spec, nothing, embedder)
        assert isinstance(spec, DecoderSpec)
        shape = {"num_slots": settings.num_slots, "capacity": 256}
        runner = CountingRunner(**shape) if self.steps is None else SteppingRunner(self.steps, **shape)
        engine = AsyncEngine(Engine(runner), name=bundle.name, capacity=256, max_waiting=4, on_failure=on_failure)
        return ChatModel(bundle, spec, nothing, None, nothing, engine)


def names(pool: ModelPool) -> list[str]:
    return [m.bundle.name for m in pool.loaded()]

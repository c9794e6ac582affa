"""A bundle with recurrent layers, from its trial to a chat that goes on after an unload, a restart and an update."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.bundle import BundleStore, Manifest, SigningKey, TrustedKeys
from appliance.bundle.folder import describe_files, write_bundle
from appliance.bundle.manifest import Source
from appliance.engine.runtime.kept_slots import KeptFolder
from appliance.engine.types import Request, Sampled, SamplingParams
from appliance.install import Installer
from appliance.models import ChatModel, EngineSettings, ModelPool, PoolSettings
from tests.engine.hybrid import SPEC, VOCAB_SIZE, hybrid_graph
from tests.text.conftest import byte_level_tokenizer

pytestmark = pytest.mark.slow

NAME = "hybrid"


class HybridDevice:
    """A store, and a home for what is prepared and kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = SigningKey.load_or_create(root / "signing.pem")
        trusted = TrustedKeys.load(root / "trusted")
        trusted.add(self.key.public)
        self.store = BundleStore(root / "store", trusted)
        self.conversations = KeptFolder(root / "conversations", 64 << 20)
        self.settings = EngineSettings(
            num_slots=2, context_length=1024, num_threads=1, conversations=self.conversations
        )

    def install(self, *, seed: int = 3) -> None:
        """Install the model as a device does, with its trial."""
        folder = self.root / f"bundle-{seed}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(hybrid_graph(seed=seed))
        (folder / "tokenizer.json").write_text(byte_level_tokenizer().to_str(), "utf-8")
        manifest = Manifest(
            name=NAME,
            model=SPEC,
            files=describe_files(folder, ["model.onnx", "tokenizer.json"]),
            license="MIT",
            source=Source(uri="here"),
        )
        write_bundle(folder, manifest, self.key)
        Installer(self.store, self.settings).install_file(folder)

    @asynccontextmanager
    async def pool(self) -> AsyncIterator[ModelPool]:
        failures: list[BaseException] = []
        pool = ModelPool(
            self.store,
            cache=self.root / "prepacked",
            settings=self.settings,
            aliases={},
            on_failure=failures.append,
            pool_settings=PoolSettings(load_wait_s=120.0, preload=()),
        )
        async with pool:
            yield pool
        assert not failures


async def answer(pool: ModelPool, prompt: list[int]) -> tuple[list[int], int]:
    """Return a completion, and the tokens of the prompt that the model read."""
    async with pool.chat(NAME) as model:
        assert isinstance(model, ChatModel)
        before = model.engine.stats()
        tokens = []
        params = SamplingParams(temperature=0.0, max_tokens=10)
        with model.engine.submit(Request("r", tuple(prompt), params, cache_key="alice")) as stream:
            while True:
                await stream.ready()
                outputs = stream.take()
                if not outputs:
                    break
                tokens += [output.token for output in outputs if isinstance(output, Sampled)]
        after = model.engine.stats()
    num_read = after.num_prompt_tokens - before.num_prompt_tokens - after.num_cached_tokens + before.num_cached_tokens
    return tokens, num_read


def a_text(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(1, VOCAB_SIZE), k=length)


def test_a_chat_goes_on_after_an_unload_and_a_restart(tmp_path: Path) -> None:
    device = HybridDevice(tmp_path)
    device.install()

    async def main() -> None:
        async with device.pool() as pool:
            first = a_text(1, 300)
            reply, num_read = await answer(pool, first)
            assert num_read == 300
            await pool.unload(NAME)
            second = [*first, *reply, *a_text(2, 30)]
            reply, num_read = await answer(pool, second)
            assert num_read == 31
        third = [*second, *reply, *a_text(3, 30)]
        async with device.pool() as pool:
            reply, num_read = await answer(pool, third)
            assert num_read == 31
        device.settings = EngineSettings(num_slots=2, context_length=1024, num_threads=1)
        async with device.pool() as pool:
            assert await answer(pool, third) == (reply, len(third))

    asyncio.run(main())


def test_a_model_that_is_replaced_or_removed_leaves_no_conversation(tmp_path: Path) -> None:
    device = HybridDevice(tmp_path)
    device.install()

    async def main() -> None:
        async with device.pool() as pool:
            prompt = a_text(1, 300)
            old, _ = await answer(pool, prompt)
            await asyncio.to_thread(device.install, seed=4)
            await pool.refresh()
            new, num_read = await answer(pool, prompt)
            assert (num_read, new != old) == (300, True)
        assert len(list((device.conversations.path / NAME).iterdir())) == 1
        async with device.pool() as pool:
            await answer(pool, prompt)
            await asyncio.to_thread(Installer(device.store, device.settings).remove, NAME)
            await pool.refresh()
        assert not (device.conversations.path / NAME).exists()

    asyncio.run(main())

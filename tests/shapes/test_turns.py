"""A chat of 2,000 tokens reads what is new, also after a restart, and a slot takes the memory that was computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.engine.checkpoints import DISTANCE, TAIL
from appliance.engine.graphs.slot_arrays import layout_of
from appliance.models.loaded import EngineSettings
from appliance.models.memory import slots_bytes
from tests.quantize.builder.tiny_graphs import write_graph
from tests.quantize.tiny import GRANITE_HYBRID
from tests.shapes.shapes import Shaped, bundled
from tests.shapes.turns import _ANSWER, _CHECKPOINT_BYTES, Chat, slot_growth

pytestmark = pytest.mark.slow

_FAMILIES = {"llama": {}, "lfm2": {}, "qwen3_5_text": {}, "granitemoehybrid": GRANITE_HYBRID, "nemotron_h": {}}
_CAPACITY = 3072


@pytest.fixture(scope="module", params=list(_FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shaped:
    root = tmp_path_factory.mktemp(request.param)
    changes = {**_FAMILIES[request.param], "max_position_embeddings": _CAPACITY}
    folder, spec = write_graph(root / "graph", request.param, context=_CAPACITY, **changes)
    return bundled(request.param, folder, root, spec)


def test_each_turn_of_a_chat_of_2000_tokens_reads_the_new_message(model: Shaped, tmp_path: Path) -> None:
    chat = Chat(model, tmp_path, capacity=_CAPACITY)
    assert chat.say(1, 2000).num_read == 2000
    for turn in range(3):
        assert chat.say(2 + turn, 40).num_read == 41  # and the last token of the answer, which was sampled only


def test_a_template_that_rewrites_the_end_of_the_history_costs_less_than_a_distance(
    model: Shaped, tmp_path: Path
) -> None:
    chat = Chat(model, tmp_path, capacity=_CAPACITY)
    chat.say(1, 2000)
    assert chat.say(2, 40, drops=_ANSWER + 3).num_read <= 40 + TAIL
    assert chat.say(3, 40, drops=700).num_read <= 40 + DISTANCE


def test_after_a_restart_no_token_of_the_prompt_is_read_twice(model: Shaped, tmp_path: Path) -> None:
    chat = Chat(model, tmp_path, capacity=_CAPACITY)
    chat.say(1, 2000)
    chat.stop()
    chat.start()
    assert chat.say(2, 40).num_read == 41
    chat.stop()
    chat.start()
    assert chat.say(3, 40, drops=_ANSWER + 3).num_read <= 40 + TAIL + 41  # the state at the end of the prompt before


def test_the_arrays_of_slots_are_those_that_were_computed(model: Shaped) -> None:
    settings = EngineSettings(num_slots=3, context_length=_CAPACITY, checkpoint_bytes=_CHECKPOINT_BYTES)
    runner = model.runner(num_slots=3, capacity=_CAPACITY, checkpoint_bytes=_CHECKPOINT_BYTES)
    spec = model.spec.model_copy(update={"context_length": _CAPACITY})
    arrays = [*runner._cache._arrays.values()]
    if runner._state is not None:
        arrays += runner._state._arrays.values()
    layout = layout_of(model.file().path.read_bytes())
    assert sum(array.nbytes for array in arrays) == slots_bytes(layout, spec, settings, "float32")
    without = replace(settings, checkpoint_bytes=0)
    of_a_slot = layout.token_bytes() * _CAPACITY + layout.state_bytes
    assert slots_bytes(layout, spec, without, "float32") == 3 * of_a_slot + layout.state_bytes


def test_a_process_grows_by_the_computed_bytes_of_a_slot(model: Shaped) -> None:
    grown, computed = slot_growth(model, 2048, num_slots=4)
    assert abs(grown - computed) < 0.15 * computed + (256 << 10)  # a tiny slot is a few pages of each layer

"""The way to a model's float graph: optimum's export if it knows the model and memory allows, else the builder."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.errors import QuantizeError
from appliance.host.memory import available_bytes
from quantize.needs import Model, export_bytes
from quantize.recipe import ExportWay, Recipe
from quantize.sources.families import DECODERS

_MOST_OPTIMUM_BYTES = 4_000_000_000  # that optimum may take without being asked for, however much is free
OPTIMUM_DECODERS = frozenset({"llama", "qwen2", "qwen3", "gemma3_text", "phi3", "mistral", "smollm3", "granite"})


@dataclass(frozen=True, slots=True)
class ExportChoice:
    """The way that a build takes, and the reason."""

    way: ExportWay
    why: str


def choose_export(asked: ExportWay, model: Model, *, free_bytes: int | None = None) -> ExportChoice:
    """Choose for a decoder, within the memory that is free now if none is given.

    Raises:
        QuantizeError: optimum is asked for, and does not know the model.
    """
    architecture = str(model.config["model_type"])
    if architecture not in OPTIMUM_DECODERS:
        if asked == "optimum":
            raise QuantizeError(f"optimum cannot export {architecture}; use --export direct, or leave the choice open")
        return ExportChoice("direct", f"optimum cannot export {architecture}")
    if asked != "auto":
        return ExportChoice(asked, "asked for")
    free = available_bytes() if free_bytes is None else free_bytes
    needed = export_bytes(model.num_parameters)["optimum"]
    limit = min(_MOST_OPTIMUM_BYTES, free)
    room = f"{free / 1e9:.1f} GB are free" if free == limit else f"{limit / 1e9:.1f} GB are allowed unasked"
    figures = f"optimum needs {needed / 1e9:.1f} GB of memory, {room}"
    return ExportChoice("optimum" if needed <= limit else "direct", figures)


def with_export(recipe: Recipe, model: Model) -> tuple[Recipe, ExportChoice]:
    """Return the recipe with the way that its build takes.

    Raises:
        QuantizeError: the way that is asked for does not lead to this model.
    """
    if model.is_decoder:
        choice = choose_export(recipe.export, model)
    elif str(model.config["model_type"]) in DECODERS:
        if recipe.export == "optimum":
            raise QuantizeError(
                "--export optimum is for models that write text and for encoders; leave the choice open"
            )
        choice = ExportChoice("direct", "of a decoder's body")
    elif recipe.export == "direct":
        raise QuantizeError("--export direct is for models that write text; text encoders are exported by optimum")
    else:
        choice = ExportChoice("optimum", "as every text encoder")
    return recipe.model_copy(update={"export": choice.way}), choice

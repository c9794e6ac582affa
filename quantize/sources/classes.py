"""The class that a configuration names (`architectures`): that of a model that writes text, or of its body."""

from __future__ import annotations

from appliance.errors import QuantizeError
from quantize.sources.families import BODIES, CLASSES
from quantize.sources.fields import Fields, shown


def body_class(family: str) -> str:
    """Return the class of a model without its head."""
    if family in BODIES:
        return CLASSES[family]
    prefix = CLASSES[family].removesuffix("ForCausalLM")
    return f"{prefix}TextModel" if family == "gemma3_text" else f"{prefix}Model"


def check_class(fields: Fields, family: str, *, is_body: bool) -> None:
    """Refuse another class, and a model without a head that is to write text.

    Raises:
        QuantizeError: naming the class.
    """
    names = fields.value("architectures")
    if family in BODIES and not is_body:
        raise QuantizeError(
            f"architectures in {fields.where} is {shown(names)}; {family} writes no text: it gives vectors, and "
            "modules.json, which says how, has to lie beside it"
        )
    if names is None or (is_body and names == [body_class(family)]):
        return
    if names != [CLASSES[family]]:
        raise QuantizeError(
            f"architectures in {fields.where} is {shown(names)}; a model that writes text is a {CLASSES[family]}"
        )

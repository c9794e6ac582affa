"""The float graph by optimum: a decoder with its K/V cache, an encoder up to its last hidden state, a cross-encoder."""

from __future__ import annotations

from pathlib import Path

from appliance.errors import QuantizeError
from quantize.interrupt import interrupt_afterwards
from quantize.quiet import quiet

DECODER_TASK = "text-generation-with-past"
ENCODER_TASK = "feature-extraction"
RERANKER_TASK = "text-classification"


def export(checkpoint: Path, target: Path, *, task: str) -> None:
    """Write model.onnx (and its data, above 2 GB) into the target folder.

    Raises:
        QuantizeError: optimum cannot export this checkpoint.
    """
    with interrupt_afterwards(), quiet():
        from optimum.exporters.onnx import main_export

        try:
            main_export(
                str(checkpoint),
                str(target),
                task=task,
                library_name="transformers",
                do_validation=False,
                no_post_process=True,
                local_files_only=True,
            )
        except Exception as err:
            reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
            raise QuantizeError(f"the checkpoint cannot be exported: {reason[:300]}") from err

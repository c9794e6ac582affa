"""Session options and execution providers of onnxruntime on this board."""

from __future__ import annotations

import onnxruntime as ort

CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_DEVICES = {CPU: "cpu", _CUDA: "cuda", _TENSORRT: "cuda"}  # the memory of each provider
_SPIN_US = 200  # longer than any gap between two operators of a step; measured as fast as spinning for ever
_SLOWER = "SkipLayerNormFusion"  # the fused operator takes four times as long as a sum and a norm
_ERRORS_ONLY = 3  # onnxruntime's severity: 0 verbose to 4 fatal


def session_options(num_threads: int, *, spinning: bool = False) -> ort.SessionOptions:
    """Return options for a session that runs one step at a time.

    Spinning keeps the threads awake between operators, but not between steps: without a bound it would hold a core that
    other processes may need.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # A pattern is kept for every shape that was ever run: batches and prompts of all lengths would fill the memory.
    options.enable_mem_pattern = False
    options.add_session_config_entry("optimization.disable_specified_optimizers", _SLOWER)
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    if spinning:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    return options


def accelerators() -> list[str]:
    """Return the execution providers of this onnxruntime that compute on a GPU."""
    available = ort.get_available_providers()
    return [provider for provider in (_TENSORRT, _CUDA) if provider in available]


def providers_of(provider: str) -> list[str]:
    """Return the providers of a session, best first: each takes the operators that those before it lack."""
    return {CPU: [CPU], _CUDA: [_CUDA, CPU], _TENSORRT: [_TENSORRT, _CUDA, CPU]}[provider]


def device_of(provider: str) -> str:
    """Return the name of a provider's memory in onnxruntime's bindings."""
    return _DEVICES[provider]

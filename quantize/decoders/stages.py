"""The stages between a decoder's float graph and its quantized file; each gives its output, done now or found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from quantize.decoders.weights import decoder_parts, unpacked_bytes, widths_by_pattern, write_mixed
from quantize.evaluation.decoder import Metrics, evaluate_decoder
from quantize.graph.codec import Bits
from quantize.pipeline import StageOutput
from quantize.precision.calibration import WINDOWS_NAME, calibration_windows
from quantize.precision.fit import HEAD_WIDTHS, fit_matrices, load_errors
from quantize.precision.kv_scales import int8_cache_metrics, measure_kv_scales
from quantize.precision.parts import Part, Widths
from quantize.precision.search import Order, best_within, load_allocation, smallest_within, write_result
from quantize.precision.sensitivity import load_sensitivity, measure_sensitivity
from quantize.precision.smoothing import Factors, smooth_file
from quantize.recipe import DEFAULT_MAX_KL, Scheme
from quantize.run import Run

_WIDTHS: Mapping[Scheme, tuple[Bits, ...]] = {
    "int8": (8,),
    "int4": (4, 8),
    "auto": (4, 8),
    "packed": (4, 5, 6, 8),
}
# Of SmolLM2-135M in int8, KL .0022 where nothing is smoothed .0044; codes of fewer bits lose by it: at 100 MB in mixed
# precision .032 with 0.5, .030 without.
_SMOOTHING: Mapping[Scheme, float] = {"int8": 0.5, "int4": 0.0, "auto": 0.0, "packed": 0.0}


@dataclass(frozen=True, slots=True)
class DecoderStages:
    """One decoder under way: the run, its checkpoint and its fused float graph."""

    run: Run
    checkpoint: Path
    spec: DecoderSpec
    fused: StageOutput

    def widths(self) -> Widths:
        """Every part's bits by the recipe's scheme."""
        part = self.run.recipe.weights
        if part.is_searched:
            return load_allocation(self.search().folder)
        return widths_by_pattern(self._parts(), ["*"] if part.scheme == "int8" else part.int8)

    def memory_spec(self) -> DecoderSpec:
        """The spec with what the weights take in memory, where that is more than the file."""
        kept, passing = unpacked_bytes(self._parts(), self.widths())
        if not kept:
            return self.spec
        files = sum(path.stat().st_size for path in self.weights().folder.iterdir())
        return self.spec.model_copy(update={"weights_bytes": files + kept, "loading_bytes": files + kept + passing})

    def weights(self) -> StageOutput:
        """The quantized file."""
        widths, smoothed, fit = self.widths(), self.smoothed(), self.fit()

        def write(target: Path) -> None:
            write_mixed(smoothed.folder, fit.folder, target, self.spec, widths)

        return self.run.stage("weights", {"fit": fit.key, "widths": widths}, write)

    def calibration(self) -> StageOutput:
        """The windows of tokens that everything is fitted to."""
        recipe, report = self.run.recipe.calibration, self.run.progress.advance_to

        def calibrate(target: Path) -> None:
            windows = calibration_windows(self.checkpoint, self.fused.folder, self.spec, recipe, report)
            np.save(target / WINDOWS_NAME, windows)

        return self.run.stage("calibrate", {"fused": self.fused.key, "calibration": recipe.identity()}, calibrate)

    def smoothed(self) -> StageOutput:
        """The float graph whose channels were evened out, if they are; all that is stored comes from it."""
        strength = self._smoothing()
        if strength == 0:
            return self.fused
        calibration, report = self.calibration(), self.run.progress.advance_to

        def smooth(target: Path) -> None:
            smooth_file(self.fused.folder, target, _windows(calibration), self.spec, strength, report)

        return self.run.stage("smooth", {"calibration": calibration.key, "strength": strength}, smooth)

    def fit(self) -> StageOutput:
        """Every matrix in the widths that the scheme needs."""
        calibration, smoothed, report = self.calibration(), self.smoothed(), self.run.progress.advance_to
        widths = _WIDTHS[self.run.recipe.weights.scheme]

        def fit(target: Path) -> None:
            fit_matrices(smoothed.folder, target, widths, _windows(calibration), self.spec, report)

        return self.run.stage("fit", {"smoothed": smoothed.key, "calibration": calibration.key, "widths": widths}, fit)

    def sensitivity(self) -> StageOutput:
        """What int4 costs each part."""
        calibration, fit, report = self.calibration(), self.fit(), self.run.progress.advance_to
        factors = Factors.load(self.smoothed().folder) if self._smoothing() else Factors()

        def measure(target: Path) -> None:
            measure_sensitivity(
                self.checkpoint, fit.folder, factors, self._parts(), _windows(calibration), target, report
            )

        return self.run.stage("sensitivity", {"fit": fit.key}, measure)

    def order(self) -> Order:
        """The parts by what wider forms save a byte."""
        sensitivity, errors = load_sensitivity(self.sensitivity().folder), load_errors(self.fit().folder)
        return Order.create(self._parts(), sensitivity, errors)

    def search(self) -> StageOutput:
        """The allocation that the recipe's target asks for, and all that were tried."""
        part, report = self.run.recipe.weights, self.run.progress.advance_to
        sensitivity, smoothed, fit, order = self.sensitivity(), self.smoothed(), self.fit(), self.order()
        max_kl = None if part.max_mb is not None else part.max_kl or DEFAULT_MAX_KL

        def search(target: Path) -> None:
            def measure(widths: Widths) -> tuple[int, Mapping[str, float]]:
                with tempfile.TemporaryDirectory(dir=target) as temporary:
                    write_mixed(smoothed.folder, fit.folder, Path(temporary), self.spec, widths)
                    return self._measured(Path(temporary))

            if max_kl is not None:
                steps, tries = order, smallest_within(order, max_kl, measure, report)
            else:
                steps, tries = best_within(order, int((part.max_mb or 0) * 1e6), measure, report)
            write_result(target, steps, tries)

        inputs = {"sensitivity": sensitivity.key, "max_kl": max_kl, "max_mb": part.max_mb}
        return self.run.stage("search", inputs, search)

    def int8_cache_metrics(self, report: Callable[[float], None]) -> Metrics:
        """The loss where a device also keeps keys and values in int8."""
        weights, scales = self.weights().folder, self.kv_scales().folder
        return int8_cache_metrics(
            self.fused.folder, weights, scales, self.checkpoint, self.spec, weights.parent, report
        )

    def _smoothing(self) -> float:
        part = self.run.recipe.weights
        return _SMOOTHING[part.scheme] if part.smoothing is None else part.smoothing

    def _parts(self) -> list[Part]:
        has_choice = set(HEAD_WIDTHS) <= set(_WIDTHS[self.run.recipe.weights.scheme])
        return decoder_parts(self.fused.folder, self.spec, with_head=has_choice)

    def _measured(self, folder: Path) -> tuple[int, Mapping[str, float]]:
        """Bytes of a quantized file, and its metrics on the held-out text."""
        size_bytes = sum(path.stat().st_size for path in folder.iterdir())
        found = evaluate_decoder(self.fused.folder, folder, self.checkpoint, self.spec, lambda _: None)
        return size_bytes, found.metrics

    def kv_scales(self) -> StageOutput:
        """The scales with which a device can keep keys and values in int8."""
        calibration, smoothed, report = self.calibration(), self.smoothed(), self.run.progress.advance_to

        def measure(target: Path) -> None:
            measure_kv_scales(smoothed.folder, target, _windows(calibration), self.spec, report)

        return self.run.stage("kv-scales", {"smoothed": smoothed.key, "calibration": calibration.key}, measure)


def _windows(calibration: StageOutput) -> NDArray[np.int64]:
    windows: NDArray[np.int64] = np.load(calibration.folder / WINDOWS_NAME)
    return windows

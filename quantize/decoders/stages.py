"""The stages between a decoder's float graph and its quantized file; each gives its output, done now or found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from quantize.decoders.weights import decoder_parts, write_mixed
from quantize.evaluation.decoder import Metrics, evaluate_decoder
from quantize.graph.codec import Bits
from quantize.pipeline import StageOutput
from quantize.precision.calibration import WINDOWS_NAME, calibration_windows
from quantize.precision.fit import fit_matrices, load_errors
from quantize.precision.kv_scales import int8_cache_metrics, measure_kv_scales
from quantize.precision.search import Order, best_within, load_allocation, smallest_within, write_result
from quantize.precision.sensitivity import load_sensitivity, measure_sensitivity
from quantize.precision.smoothing import Factors, smooth_file
from quantize.recipe import DEFAULT_MAX_KL
from quantize.run import Run

_SMOOTHING = 0.5  # of SmolLM2-135M in int8, KL .0022 where nothing is smoothed .0044


@dataclass(frozen=True, slots=True)
class DecoderStages:
    """One decoder under way: the run, its checkpoint and its fused float graph."""

    run: Run
    checkpoint: Path
    spec: DecoderSpec
    fused: StageOutput

    def weights(self) -> StageOutput:
        """The quantized file by the recipe's scheme."""
        part = self.run.recipe.weights
        int8: Sequence[str] = ["*"] if part.scheme == "int8" else part.int8
        if part.scheme == "auto":
            int8 = load_allocation(self.search().folder)
        smoothed, fit = self.smoothed(), self.fit()
        inputs = {"fit": fit.key, "int8": sorted(int8)}

        def write(target: Path) -> None:
            write_mixed(smoothed.folder, fit.folder, target, self.spec, int8)

        return self.run.stage("weights", inputs, write)

    def calibration(self) -> StageOutput:
        """The windows of tokens that everything is fitted to."""
        recipe, report = self.run.recipe.calibration, self.run.progress.advance_to

        def calibrate(target: Path) -> None:
            windows = calibration_windows(self.checkpoint, self.fused.folder, self.spec, recipe, report)
            np.save(target / WINDOWS_NAME, windows)

        return self.run.stage("calibrate", {"fused": self.fused.key, "calibration": recipe.identity()}, calibrate)

    def smoothed(self) -> StageOutput:
        """The float graph whose channels were evened out; all that is stored comes from it."""
        calibration, report = self.calibration(), self.run.progress.advance_to
        strength = self.run.recipe.weights.smoothing
        strength = _SMOOTHING if strength is None else strength

        def smooth(target: Path) -> None:
            smooth_file(self.fused.folder, target, _windows(calibration), self.spec, strength, report)

        return self.run.stage("smooth", {"calibration": calibration.key, "strength": strength}, smooth)

    def fit(self) -> StageOutput:
        """Every matrix in the widths that the scheme needs."""
        calibration, smoothed, report = self.calibration(), self.smoothed(), self.run.progress.advance_to
        widths: tuple[Bits, ...] = (8,) if self.run.recipe.weights.scheme == "int8" else (4, 8)

        def fit(target: Path) -> None:
            fit_matrices(smoothed.folder, target, widths, _windows(calibration), self.spec, report)

        return self.run.stage("fit", {"smoothed": smoothed.key, "widths": widths}, fit)

    def sensitivity(self) -> StageOutput:
        """What int4 costs each part."""
        calibration, fit, report = self.calibration(), self.fit(), self.run.progress.advance_to
        factors = Factors.load(self.smoothed().folder)

        def measure(target: Path) -> None:
            parts = decoder_parts(self.fused.folder, self.spec)
            measure_sensitivity(self.checkpoint, fit.folder, factors, parts, _windows(calibration), target, report)

        return self.run.stage("sensitivity", {"fit": fit.key}, measure)

    def order(self) -> Order:
        """The parts by what int8 saves a byte."""
        parts = decoder_parts(self.fused.folder, self.spec)
        return Order.create(parts, load_sensitivity(self.sensitivity().folder), load_errors(self.fit().folder))

    def search(self) -> StageOutput:
        """The allocation that the recipe's target asks for, and all that were tried."""
        part, report = self.run.recipe.weights, self.run.progress.advance_to
        sensitivity, smoothed, fit, order = self.sensitivity(), self.smoothed(), self.fit(), self.order()
        max_kl = None if part.max_mb is not None else part.max_kl or DEFAULT_MAX_KL

        def search(target: Path) -> None:
            def measure(int8: Sequence[str]) -> tuple[int, Mapping[str, float]]:
                with tempfile.TemporaryDirectory(dir=target) as temporary:
                    write_mixed(smoothed.folder, fit.folder, Path(temporary), self.spec, int8)
                    return self._measured(Path(temporary))

            if max_kl is not None:
                tries = smallest_within(order, max_kl, measure, report)
            else:
                tries = best_within(order, int((part.max_mb or 0) * 1e6), measure, report)
            write_result(target, order, tries)

        inputs = {"sensitivity": sensitivity.key, "max_kl": max_kl, "max_mb": part.max_mb}
        return self.run.stage("search", inputs, search)

    def int8_cache_metrics(self, report: Callable[[float], None]) -> Metrics:
        """The loss where a device also keeps keys and values in int8."""
        weights, scales = self.weights().folder, self.kv_scales().folder
        return int8_cache_metrics(
            self.fused.folder, weights, scales, self.checkpoint, self.spec, weights.parent, report
        )

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

        return self.run.stage("kv-scales", {"smoothed": smoothed.key}, measure)


def _windows(calibration: StageOutput) -> NDArray[np.int64]:
    windows: NDArray[np.int64] = np.load(calibration.folder / WINDOWS_NAME)
    return windows

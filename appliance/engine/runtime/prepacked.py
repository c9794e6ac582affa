"""The prepacked forms of a model: optimized, their weights packed for this processor, mapped from a file.

A child process makes each form once, so that the peak of memory ends with it; if that fails, the bundle's own file is
loaded. A form belongs to one bundle, one processor and one onnxruntime version; when any differs, it is made again.

The stock form has onnxruntime's operators. A decoder has a second form, with the products of Lantern's kernels, where
their library was built: it belongs to one version of the library too, and its record tells what it is taken for. The
stock form is removed if nothing takes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime as ort

from appliance.bundle import Bundle, DecoderSpec, SignedManifest
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.graphs.blocks import packed_bytes
from appliance.engine.kernels import LIBRARY, KernelLibraryAbsentError, KernelLibraryError, library_version
from appliance.engine.runtime.gpu import device_graph
from appliance.engine.runtime.kernel_choice import KernelChoice
from appliance.engine.runtime.kv_cache import CacheType
from appliance.engine.runtime.model_file import ModelFile, variant_path
from appliance.engine.runtime.preparation import INT8_NAME, TUNING_NAME
from appliance.engine.runtime.product import int4_rows_are_equal, int8_products_are_exact
from appliance.engine.runtime.tuning import Tuning
from appliance.errors import ModelError
from appliance.host.cores import usable_cores
from appliance.host.files import sync_tree

_LOGGER = logging.getLogger(__name__)

_PREPARATION = "appliance.engine.runtime.preparation"
_KERNEL_TRIAL = "appliance.engine.runtime.kernel_trial"
_LAYOUT = "5"  # of the stock form; another one is made again
_KERNELS_LAYOUT = "6"  # of the kernels' form
_TRIAL_S = 120.0
_MOST_TRIALS = 2
_ONE_AT_A_TIME = threading.Lock()  # measurements would disturb each other


@dataclass(frozen=True, slots=True)
class _Forms:
    """The folders of a model's forms, and the choice between them; without one, the stock form serves."""

    stock: Path
    kernels: Path
    choice: KernelChoice | None = None

    @property
    def needs_stock(self) -> bool:
        """Return True if anything takes the stock form."""
        return not (self.takes_kernels(for_prompts=False) and self.takes_kernels(for_prompts=True))

    def takes_kernels(self, *, for_prompts: bool) -> bool:
        """Return True if prompts, or generated tokens, take the kernels' form."""
        return self.choice is not None and (self.choice.for_prompts if for_prompts else self.choice.for_answers)

    def folder(self, *, for_prompts: bool) -> Path:
        """Return the folder of the form that prompts, or generated tokens, take."""
        return self.kernels if self.takes_kernels(for_prompts=for_prompts) else self.stock

    def remove_others(self) -> None:
        """Remove all other forms of the model, and the stock form if nothing takes it."""
        used = {self.stock} if self.needs_stock else set()
        used |= {self.kernels} if self.choice is not None else set()
        for other in self.stock.parent.iterdir():
            if other not in used:
                shutil.rmtree(other, ignore_errors=True)


def prepacked(
    bundle: Bundle,
    cache: Path,
    *,
    cache_type: CacheType | None = None,
    fast_prompts: bool = True,
    use_device: bool = True,
    use_kernels: bool = True,
    library: Path = LIBRARY,
    timeout_s: float = 600.0,
) -> ModelFile:
    """Return the prepacked form of a bundle's model, made now if it is absent; the bundle's own file if that fails.

    `cache_type`: of the keys and values, if the bundle has the scales that int8 takes. `fast_prompts`: with a graph for
    prompts, if that is faster here. `use_device`: on a GPU, if one gives the same logits faster; it has no int8 keys
    and values. `use_kernels`: with the kernels of `library`, if they are faster here.
    """
    is_decoder = isinstance(bundle.manifest.model, DecoderSpec)
    with _ONE_AT_A_TIME:
        forms = _forms(bundle, cache, library if use_kernels and is_decoder else None, timeout_s)
        if forms is None:
            return ModelFile(bundle.path(MODEL_NAME))
        base = forms.folder(for_prompts=False)
        is_for_device = use_device and cache_type != "int8" and is_decoder
        device = device_graph(bundle, base) if is_for_device else None
    tuning = Tuning.read(base / TUNING_NAME)
    if device is not None:
        return ModelFile(device.path, tuning=tuning, device=device)
    is_int8 = cache_type == "int8" and (base / INT8_NAME).exists()
    name = INT8_NAME if is_int8 else MODEL_NAME
    return ModelFile(
        base / name,
        is_optimized=True,
        tuning=tuning,
        cache_type="int8" if is_int8 else None,
        fast_prompts=fast_prompts,
        kernels=None if forms.folder(for_prompts=True) == forms.stock == base else library,
        weights=bundle.folder,
        prompt_path=_prompt_elsewhere(forms, name),
    )


def recorded_choice(bundle: SignedManifest, cache: Path, library: Path = LIBRARY) -> KernelChoice | None:
    """Return the choice that was recorded for a model with this library; None if it was not made yet.

    Raises:
        KernelLibraryError: the library is absent or was changed.
    """
    return KernelChoice.read(cache / bundle.name / _key(bundle.digest, library_version(library)))


@dataclass(frozen=True, slots=True)
class FormBytes:
    """The memory of a decoder's weights as its forms were chosen here; None for what the manifest tells.

    `prompts`: of further weights that only prompts read.
    """

    answers: int | None = None
    prompts: int | None = None


def form_bytes(bundle: SignedManifest, cache: Path, library: Path = LIBRARY) -> FormBytes:
    """Return the memory of a decoder's weights, as far as it depends on the kernels; nothing is made."""
    try:
        choice = recorded_choice(bundle, cache, library)
        if choice is None or not (choice.for_answers or choice.for_prompts):
            return FormBytes()
        model = cache / bundle.name / _key(bundle.digest, library_version(library)) / MODEL_NAME
        num_bytes = packed_bytes(model.read_bytes())
    except (OSError, KernelLibraryError, ModelError):
        return FormBytes()
    if not choice.for_answers:
        return FormBytes(prompts=num_bytes)
    if not choice.for_prompts:
        return FormBytes(num_bytes, bundle.manifest.loaded_bytes)
    return FormBytes(num_bytes, None if variant_path(model, "prompt").exists() else 0)


def _forms(bundle: Bundle, cache: Path, library: Path | None, timeout_s: float) -> _Forms | None:
    """Make what is absent of a model's forms, and remove those of others; None if there is not even the stock form."""
    home = cache / bundle.name
    version = _version(library)
    forms = _Forms(home / _key(bundle.digest), home / _key(bundle.digest, version or ""))
    if library is None or version is None:
        return forms if _made(bundle, forms, timeout_s) else None
    choice = KernelChoice.read(forms.kernels)
    if choice is not None:
        forms = replace(forms, choice=choice)
        return forms if not forms.needs_stock or _made(bundle, forms, timeout_s) else None
    if not _made(bundle, forms, timeout_s):
        return None
    if _try_kernels(bundle, forms, library, timeout_s):
        choice = KernelChoice.read(forms.kernels)
        _LOGGER.info("%s %s", bundle.name, choice.describe() if choice is not None else "has no record")
        forms = replace(forms, choice=choice)
        forms.remove_others()
    return forms


def _try_kernels(bundle: Bundle, forms: _Forms, library: Path, timeout_s: float) -> bool:
    """Make the kernels' form and its record; return False if that failed.

    The start of a service waits for the trial: if its process was killed in the middle for the second time, the record
    of a fault takes the place of a third trial.
    """
    begun = forms.kernels.with_name(f"{forms.kernels.name}.begun")
    if begun.exists() and begun.stat().st_size >= _MOST_TRIALS:
        _record_fault(f"their trial did not end {_MOST_TRIALS} times", forms.kernels)
        begun.unlink()
        return True
    _LOGGER.info("Trying Lantern's kernels with %s (once)", bundle.name)
    with contextlib.suppress(OSError), begun.open("a") as file:  # a full disk: the trial fails as well, and is told
        file.write(".")
    arguments = [str(path) for path in (library, bundle.path(MODEL_NAME), forms.stock)]
    is_made = _make(_KERNEL_TRIAL, arguments, forms.kernels, bundle.name, min(timeout_s, _TRIAL_S))
    begun.unlink(missing_ok=True)
    return is_made


def _made(bundle: Bundle, forms: _Forms, timeout_s: float) -> bool:
    """Make the stock form if it is absent; return False if that failed."""
    if (forms.stock / MODEL_NAME).exists():
        return True
    _LOGGER.info("Preparing %s for this processor (once)", bundle.name)
    if not _make(_PREPARATION, [str(bundle.path(MODEL_NAME))], forms.stock, bundle.name, timeout_s):
        return False
    forms.remove_others()
    return True


def _make(module: str, arguments: list[str], target: Path, name: str, timeout_s: float) -> bool:
    """Run a child that writes a folder, and put its result in place by one rename; return False if it failed.

    A child that crashed or hung leaves the record of a fault, so that it is not run again.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as staged:
            folder = Path(staged) / "made"
            folder.mkdir()
            command = [sys.executable, "-m", module, *arguments, str(folder)]
            made = subprocess.run(command, check=True, timeout=timeout_s, capture_output=True, text=True)  # noqa: S603
            if made.stderr:
                _LOGGER.info("While %s was prepared: %s", name, made.stderr.strip())
            sync_tree(folder)  # a power cut must not leave the name without the weights
            folder.rename(target)
    except (OSError, subprocess.SubprocessError) as err:
        _LOGGER.warning("The model %s is loaded without what was to be prepared: %s", name, err)
        if module == _KERNEL_TRIAL and (fault := _fault_of(err)) is not None:
            _record_fault(fault, target)
        return False
    return True


def _fault_of(err: OSError | subprocess.SubprocessError) -> str | None:
    """Return the fault of a trial that crashed or hung; None for other failures, which may not come again."""
    match err:
        case subprocess.TimeoutExpired():
            return f"their trial took more than {err.timeout:.0f} s"
        case subprocess.CalledProcessError() if err.returncode < 0:
            return f"their trial ended by {signal.Signals(-err.returncode).name}"
        case _:
            return None


def _record_fault(fault: str, target: Path) -> None:
    with contextlib.suppress(OSError):
        target.mkdir(exist_ok=True)
        KernelChoice(fault=fault).write(target)


def _prompt_elsewhere(forms: _Forms, name: str) -> Path | None:
    """Return the graph for prompts if it belongs to the other form than the one that answers."""
    folder = forms.folder(for_prompts=True)
    if folder == forms.folder(for_prompts=False):
        return None
    model = folder / name
    prompt = variant_path(model, "prompt")
    return prompt if prompt.exists() else model


def _version(library: Path | None) -> str | None:
    """Return the version of the library; None if it cannot be used."""
    if library is None:
        return None
    try:
        return library_version(library)
    except KernelLibraryAbsentError:
        return None
    except KernelLibraryError as err:
        _LOGGER.warning("Stock operators serve: %s", err.message)
        return None


def _key(digest: str, library_version: str = "") -> str:
    """Return the name of a form's folder: of the stock form, or of the one with the kernels of a library."""
    parts = [_LAYOUT, digest, ort.__version__, platform.machine(), _processor(), f"cores {usable_cores()}"]
    if not int8_products_are_exact():
        parts.append("unsigned products")
    if library_version:
        parts += [f"kernels {_KERNELS_LAYOUT}", library_version]
        if not int4_rows_are_equal():
            parts.append("stock rows differ")  # for which the choice once had no regard
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    """Return the model and features of the first processor, on which packing depends."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n")[0]
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU part", "CPU implementer")
    return "\n".join(line for line in first.splitlines() if line.split("\t")[0].strip() in names)

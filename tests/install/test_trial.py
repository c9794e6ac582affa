"""A signed model that hangs, crashes or reaches out does so in a process that is thrown away, and is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import BundleError, InsufficientMemoryError
from appliance.install import Installer, TrialLimits
from appliance.install.graph_check import check_graph
from appliance.install.trial import Trial
from appliance.models import EngineSettings
from tests.bundle.workshop import install_untried, snapshot
from tests.install.harms import GRAPHS, never_ends
from tests.install.tiny_bundles import Change, TinyDevice, encoder_graph

pytestmark = pytest.mark.slow

STRICT = TrialLimits(base_bytes=3 << 29, cpu_s=20, wall_s=60.0)


@pytest.fixture
def device(tmp_path: Path) -> TinyDevice:
    return TinyDevice(tmp_path)


def an_installer(device: TinyDevice, **changes: object) -> Installer:
    return Installer(device.store, EngineSettings(num_threads=1), **{"limits": STRICT, **changes})  # type: ignore[arg-type]


def test_a_sound_model_passes_and_is_installed(device: TinyDevice) -> None:
    bundle = an_installer(device).install_file(device.make())
    assert bundle.name == "tiny"
    assert device.store.active("tiny") == bundle.digest


@pytest.mark.parametrize(("change", "said"), GRAPHS.values(), ids=GRAPHS.keys())
def test_a_hostile_graph_is_refused_and_the_old_model_stays(device: TinyDevice, change: Change, said: str) -> None:
    install_untried(device.store, device.make())
    before = snapshot(device.store.root)
    with pytest.raises(BundleError, match=said):
        an_installer(device).install_file(device.make(1, change=change))
    assert snapshot(device.store.root) == before


@pytest.mark.parametrize(
    ("graph", "tokenizer"),
    [
        (b"", None),
        (b"\x00" * 100, None),
        (b"\x3a\xff\xff\xff\xff\x0f", None),
        (encoder_graph(0).SerializeToString()[:200], None),
        (b"GGUF" + b"x" * 1000, None),
        (None, ""),
        (None, "{}"),
        (None, "[" * 100_000),
    ],
)
def test_signed_nonsense_is_refused(device: TinyDevice, graph: bytes | None, tokenizer: str | None) -> None:
    with pytest.raises(BundleError):
        an_installer(device).install_file(device.make(graph=graph, tokenizer=tokenizer))
    assert device.store.names() == []


def test_a_model_that_never_answers_is_given_up(device: TinyDevice) -> None:
    bundle = device.store.verify(device.make(change=never_ends))
    with pytest.raises(BundleError, match=r"SIGXCPU|SIGKILL"):
        Trial(bundle, TrialLimits(cpu_s=3, wall_s=60.0)).run()
    with pytest.raises(BundleError, match="within 2 s"):
        Trial(bundle, TrialLimits(cpu_s=60, wall_s=2.0)).run()


def test_a_trial_that_was_stopped_before_it_began_ends_at_once(device: TinyDevice) -> None:
    trial = Trial(device.store.verify(device.make(change=never_ends)), TrialLimits(cpu_s=60, wall_s=60.0))
    trial.stop()
    with pytest.raises(BundleError, match="SIGKILL"):
        trial.run()


def test_what_does_not_fit_into_memory_is_refused_with_the_numbers(device: TinyDevice) -> None:
    installer = an_installer(device, free_bytes=lambda: 100 << 20)
    with pytest.raises(InsufficientMemoryError, match=r"tiny needs \d+ MiB .* 36 MiB could be made free"):
        installer.install_file(device.make())
    an_installer(device, free_bytes=lambda: 100 << 20, held_bytes=lambda: 1 << 30).install_file(device.make())
    assert device.store.names() == ["tiny"]


def test_a_bundle_that_was_tried_once_is_not_tried_again(device: TinyDevice) -> None:
    one, two = device.make(1), device.make(2)
    for folder in (one, two):
        install_untried(device.store, folder)
    untriable = an_installer(device, limits=TrialLimits(wall_s=0.0))
    assert untriable.install_file(one).folder == device.store.root / "tiny" / device.store.versions("tiny")[1]
    with pytest.raises(BundleError, match="within 0 s"):
        untriable.install_file(device.make(3))


_GREEDY = """
import json, os, socket, subprocess, sys
from pathlib import Path
from appliance.install.confine import confine
folder = Path(sys.argv[1])
done = {"confined": confine(memory_bytes=1 << 32, cpu_s=60, num_files=32)}
def attempt(name, action):
    try:
        action()
        done[name] = "done"
    except (OSError, subprocess.SubprocessError) as err:
        done[name] = type(err).__name__
attempt("read", lambda: (folder / "there").read_bytes())
attempt("write", lambda: (folder / "new").write_bytes(b"x"))
attempt("overwrite", lambda: open(folder / "there", "r+b"))
attempt("truncate", lambda: os.truncate(folder / "there", 0))
attempt("unlink", lambda: (folder / "there").unlink())
attempt("rename", lambda: (folder / "there").rename(folder / "elsewhere"))
attempt("link", lambda: os.link(folder / "there", folder / "second"))
attempt("symlink", lambda: os.symlink("/", folder / "root"))
attempt("mkdir", lambda: (folder / "sub").mkdir())
attempt("chmod", lambda: (folder / "there").chmod(0o777))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", 1)))
attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("local socket", lambda: socket.socket(socket.AF_UNIX))
attempt("run", lambda: subprocess.run(["/bin/true"], check=True))
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
attempt("kill", lambda: os.kill(os.getppid(), 0))
try:
    bytearray(1 << 33)
    done["memory"] = "done"
except MemoryError:
    done["memory"] = "MemoryError"
print(json.dumps(done))
"""


def test_a_confined_process_reads_and_computes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"content")
    printed = subprocess.run(
        [sys.executable, "-c", _GREEDY, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    done = json.loads(printed)
    assert done.pop("confined") is True
    assert done.pop("read") == "done"
    assert done.pop("memory") == "MemoryError"
    assert "done" not in done.values(), done
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_bytes() == b"content"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_bytes_confuse_the_reader_of_graphs(tmp_path: Path, data: st.DataObject) -> None:
    graph = bytearray(encoder_graph(0).SerializeToString())
    for _ in range(data.draw(st.integers(0, 5))):
        graph[data.draw(st.integers(0, len(graph) - 1))] = data.draw(st.integers(0, 255))
    del graph[data.draw(st.integers(1, len(graph))) :]
    (tmp_path / "model.onnx").write_bytes(graph)
    try:
        check_graph(tmp_path / "model.onnx", {})
    except BundleError:
        return

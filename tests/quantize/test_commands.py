"""The commands around a build: keys, recipes, a second look at a bundle, and two of them side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.bundle import SigningKey, TrustedKeys
from appliance.home import Home
from quantize.cli import main
from quantize.recipe import RECIPES
from tests.quantize.tiny import write_decoder, write_encoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a bundle of each of two checkpoints, the decoder in int8 and in int4."""
    root = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANTERN_HOME", str(root / "home"))
        write_decoder(root / "llama", "llama")
        write_encoder(root / "bert")
        text = root / "own.txt"
        text.write_text("the quick brown fox jumps over the lazy dog\n" * 500)
        out = ["--out", str(root / "out")]
        assert main(["build", str(root / "llama"), *out, "--license", "MIT", "--force"]) == 0
        assert main(["build", str(root / "llama"), *out, "--name", "small", "--scheme", "int4",
                     "--calibration", str(text), "--force"]) == 0  # fmt: skip
        assert main(["build", str(root / "bert"), *out, "--force"]) == 0
    return root


@pytest.fixture(autouse=True)
def _home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANTERN_HOME", str(root / "home"))


def test_a_build_from_own_text_and_scales_for_int8_keys_says_so_without_any_path(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(root / "out" / "small"), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["model"]["kv_cache_dtype"] == "float32"
    assert "kv_scales.bin" in {file["name"] for file in manifest["files"]}
    assert manifest["evaluation"]["metrics"]["kl_mean_int8_kv"] > 0
    assert manifest["recipe"]["weights"]["scheme"] == "int4"
    assert len(manifest["recipe"]["calibration"]["text_sha256"]) == 64
    assert str(root) not in json.dumps(manifest)
    assert "report.html" in {file["name"] for file in manifest["files"]}


@pytest.mark.parametrize("is_relative", [False, True])
def test_a_folder_is_judged_as_the_source_that_it_is(
    root: Path, is_relative: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root / "out")
    assert main(["inspect", "../llama" if is_relative else str(root / "llama"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "llama"


def test_two_bundles_are_compared_line_by_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(root / "out" / "llama"), str(root / "out" / "small")]) == 0
    said = capsys.readouterr().out
    lines = {line.split("│")[1].strip(): line for line in said.splitlines() if line.count("│") > 2}
    assert lines["MB of the model"].split("│")[4].strip().startswith("-")
    assert lines["kl_mean"].split("│")[4].strip().startswith("+")
    assert "differs" in lines["scheme"]
    assert "differs" not in lines["architecture"]


def test_a_bundle_is_measured_again_against_its_own_checkpoint(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(root / "out" / "llama")
    assert main(["evaluate", bundle, "--source", str(root / "llama"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert main(["inspect", bundle, "--json"]) == 0
    recorded = json.loads(capsys.readouterr().out)["evaluation"]["metrics"]
    for name, value in recorded.items():
        assert figures[name] == pytest.approx(value, rel=1e-3), name
    assert figures["decode_tokens_per_s"] > 0


def test_a_bundle_whose_checkpoint_is_not_known_is_measured_by_itself(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(root / "out" / "small")]) == 0
    said = capsys.readouterr()
    assert "name it with --source" in said.err
    assert "perplexity" in said.out
    assert "kl_mean" not in said.out


def test_an_encoder_is_measured_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(root / "out" / "bert"), "--source", str(root / "bert")]) == 0
    said = capsys.readouterr().out
    assert "cosine_min" in said
    assert "texts_per_s" in said


def test_another_checkpoint_is_not_taken_for_the_bundles_own(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(root / "out" / "llama"), "--source", str(root / "bert")]) == 5
    assert "is not the checkpoint that llama was built from" in capsys.readouterr().err


def test_every_recipe_is_listed_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    for path in RECIPES.glob("*.toml"):
        assert path.stem in said


def test_a_recipes_name_is_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "gemma-3-1b-it", "--offline", "--out", str(tmp_path / "out")]) == 5
    assert "google/gemma-3-1b-it comes under the licence 'gemma'" in capsys.readouterr().err
    assert main(["build", "gemma-3-1b-it", "--offline", "--accept-license", "--out", str(tmp_path / "out")]) == 5
    assert "google/gemma-3-1b-it is not in the cache; run once without --offline" in capsys.readouterr().err


def test_keygen_makes_a_key_once_and_shows_it_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setenv("LANTERN_HOME", str(home.root))
    assert main(["keygen"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("a new key ")
    assert home.signing_key.stat().st_mode & 0o077 == 0
    assert main(["keygen", "--public", str(tmp_path / "mine.pub")]) == 0
    assert capsys.readouterr().out == first.removeprefix("a new ").join(["the ", ""])
    device = tmp_path / "device"
    device.mkdir()
    (tmp_path / "mine.pub").rename(device / "mine.pub")
    signature = SigningKey.load(home.signing_key).sign(b"message")
    assert TrustedKeys.load(device).verify(b"message", signature) in first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--scheme", "int8", "--max-kl", "0.1"], "max_kl and max_mb are for the schemes auto and packed"),
        (["--scheme", "auto", "--max-kl", "0.1", "--max-mb", "5"], "give max_kl or max_mb, not both"),
        (["--scheme", "auto", "--max-kl", "-1"], "weights.max_kl"),
        (["--scheme", "auto", "--max-mb", "0.05"], "--max-mb 0.05 cannot be reached: the smallest file in auto has"),
        (["--scheme", "int4", "--calibration", "absent.txt"], "the calibration text absent.txt cannot be read"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    root: Path, tmp_path: Path, changes: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(root / "llama"), "--out", str(tmp_path / "out"), *changes]) == 5
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

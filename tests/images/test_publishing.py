"""A release: its needs by name, its parts the same twice, its notes, its list of known holes, and its signature."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.home import Home
from images.publishing import tried
from images.publishing.advisories import LOCKS, check_locks, closed_holes, locked
from images.publishing.checksums import PUBLIC, SIGNATURE, SUMS, VERIFYING, check_release
from images.publishing.needs import missing_needs
from images.publishing.notes import CHANGELOG, changelog_entry
from images.publishing.parts import Part, build_twice, debs, wheel
from images.publishing.release import NOTES, Order, publish
from images.signing import add_release_key, make_keys
from images.workplace import ROOT, VERSION, commit_epoch

_DAY = datetime.date(2026, 11, 28)
_LOG = "# Changelog\n\n## 1.2.0 (2026-11-28)\n\n### Added\n\n- A thing.\n\n## 1.1.0 (2026-10-01)\n\nOlder.\n"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    make_keys(folder)
    add_release_key(folder)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clean repository whose changelog begins with 1.2.0."""
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "CHANGELOG.md").write_text(_LOG)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message=all")
    return folder


def git(folder: Path, *words: str, **variables: str) -> None:
    environment = {**os.environ, **variables}
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, env=environment)


def test_a_commit_during_a_build_does_not_change_its_time(clone: Path) -> None:
    """It made two assemblies of one card differ."""
    before = commit_epoch(clone)
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    git(
        clone, *identity, "commit", "--quiet", "--allow-empty", "--message=x", GIT_COMMITTER_DATE="2000-01-01T00:00:00Z"
    )
    assert commit_epoch(clone) == before > 1_000_000_000


def text_part(texts: Sequence[str]) -> Part:
    """A part whose first build writes the first text, and so on."""
    ready = itertools.cycle(texts)
    return Part("a text", lambda out: (out / "a.txt").write_text(next(ready)))


def lacking(clone: Path, keys: Path, tmp_path: Path, *, version: str = "1.2.0") -> str:
    home = Home(tmp_path / "home")
    return "\n".join(missing_needs(keys, home, tmp_path, has_image=False, root=clone, version=version))


def test_what_is_missing_is_named_before_anything_is_built(clone: Path, keys: Path, tmp_path: Path) -> None:
    assert not re.search("^(tree|changelog|keys|disk)", lacking(clone, keys, tmp_path), re.MULTILINE)
    assert "changelog: CHANGELOG.md begins with '1.2.0 (2026-11-28)'" in lacking(clone, keys, tmp_path, version="1.3.0")
    (keys / "release.key").unlink()
    assert f"keys: release.key not in {keys}" in lacking(clone, keys, tmp_path)
    (clone / "new.txt").touch()
    assert "tree: 1 files are changed or new, new.txt among them" in lacking(clone, keys, tmp_path)
    assert "is no clone of the repository" in lacking(tmp_path / "home", keys, tmp_path)
    with_image = "\n".join(missing_needs(keys, Home(tmp_path / "home"), tmp_path, has_image=True, root=clone))
    assert "models: all-minilm-l6-v2, smollm2-135m-instruct not in" in with_image


def test_the_changelog_begins_with_this_version() -> None:
    entry = changelog_entry(VERSION, CHANGELOG.read_text("utf-8"))
    assert entry.text.startswith("### Added")
    assert "\n## 0.1.0 (" in CHANGELOG.read_text("utf-8")
    assert "0.1.0" not in [line for line in entry.text.splitlines() if line.startswith("## ")]


@pytest.mark.parametrize(
    "log", ["", "# Changelog\n", "## Unreleased\n\n- A\n", "## 1.2.0 (2026-11-28)\n\n## 1.1.0 (2026-10-01)\n"]
)
def test_a_changelog_without_the_version_is_refused(log: str) -> None:
    with pytest.raises(SystemExit, match=r"CHANGELOG\.md"):
        changelog_entry("1.2.0", log)


def test_a_part_that_is_built_differently_stops_the_release(tmp_path: Path) -> None:
    [path] = build_twice([text_part(["same", "same"])], tmp_path)
    assert path.read_text() == "same"
    with pytest.raises(SystemExit, match=r"Two builds of a text differ: a\.txt"):
        build_twice([text_part(["one", "other"])], tmp_path)


@pytest.mark.slow
def test_two_wheels_are_the_same_and_have_everything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    [path] = build_twice([wheel()], out)
    assert path.name == f"lantern_appliance-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path) as built:
        names = built.namelist()
    assert {"appliance/py.typed", "quantize/__main__.py", "lantern_tables/cl100k_base.tiktoken"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "images/"))]


def test_a_release_is_complete_signed_and_says_what_was_not_tried(keys: Path, tmp_path: Path) -> None:
    records = tmp_path / "tried"
    (records / "abc").mkdir(parents=True)
    (records / "abc/test.xml").write_text(
        '<testsuites><testsuite time="90"><testcase/><testcase/>'
        '<testcase><skipped message="needs root"/></testcase></testsuite></testsuites>'
    )
    (records / "abc/soak.txt").write_text("MINUTES=60\n")
    order = Order(tmp_path / "dist", has_image=False, records=records, keys=keys, parts=[text_part(["same"])])
    folder = publish(order, "abc")
    notes = (folder / NOTES).read_text()
    assert f"# Lantern {VERSION}" in notes
    assert "| make test (first pass) | 2 | 1 | 2 |" in notes
    assert "left out 1 times: needs root" in notes
    assert "| make soak MINUTES=60 | yes |" in notes
    assert "make image-test: there is no record of it at this commit" in notes
    assert "not checked against known holes" in notes
    assert "slot.txt" in notes, "the list for hardware"
    assert json.loads((folder / f"lantern-{VERSION}-advisories.json").read_text())["checked"] is False
    assert {line.split()[1] for line in (folder / SUMS).read_text().splitlines()} == {
        path.name for path in folder.iterdir()
    } - {SUMS, SIGNATURE}
    for command in VERIFYING:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    again = publish(order, "abc")
    assert again == folder
    assert not list(order.out.glob(".*")), "no scratch is left"


def test_a_changed_file_is_noticed(keys: Path, tmp_path: Path) -> None:
    order = Order(tmp_path / "dist", has_image=False, records=tmp_path, keys=keys, parts=[text_part(["same"])])
    folder = publish(order, "abc")
    check_release(folder, folder / PUBLIC)
    (folder / "a.txt").write_text("sane")
    with pytest.raises(SystemExit, match=r"a\.txt is absent, or is not the file that was signed"):
        check_release(folder, folder / PUBLIC)
    sums = (folder / SUMS).read_text()
    (folder / SUMS).write_text(sums.replace("a.txt", "b.txt"))
    with pytest.raises(SystemExit, match="was not signed with the key"):
        check_release(folder, folder / PUBLIC)


def test_a_commit_during_the_builds_is_told_as_the_cause(keys: Path, tmp_path: Path) -> None:
    order = Order(tmp_path / "dist", has_image=False, records=tmp_path, keys=keys, parts=[text_part(["one", "other"])])
    with pytest.raises(SystemExit, match="went from abc to def during the builds"):
        publish(order, "abc", head=lambda: "def")


def test_a_failed_test_stops_the_release(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc/crashes.xml").write_text(
        "<testsuites><testsuite><testcase><failure/></testcase></testsuite></testsuites>"
    )
    order = Order(tmp_path / "dist", has_image=False, records=tmp_path, keys=keys, parts=[])
    with pytest.raises(SystemExit, match="Tests failed at this commit: make crashes"):
        publish(order, "abc")


def advisory(package: str, affected: dict[str, object], *, number: str = "CVE-2030-1") -> dict[str, object]:
    entry = {"package": {"ecosystem": "PyPI", "name": package}, **affected}
    return {"id": f"PYSEC-{package}", "aliases": [number], "modified": "2026-11-20T10:00:00Z", "affected": [entry]}


def ranges(*events: dict[str, str]) -> list[dict[str, object]]:
    return [{"type": "ECOSYSTEM", "events": list(events)}]


def test_a_locked_package_with_a_known_hole_stops_the_release(keys: Path, tmp_path: Path) -> None:
    [version] = {found for name, found in locked() if name == "aiohttp"}
    export = tmp_path / "all.zip"
    with zipfile.ZipFile(export, "w") as archive:
        archive.writestr("1.json", json.dumps(advisory("aiohttp", {"ranges": ranges({"introduced": "0"})})))
    order = Order(
        tmp_path / "dist", has_image=False, advisories=export, records=tmp_path, keys=keys, parts=[text_part(["same"])]
    )
    with pytest.raises(SystemExit, match=rf"aiohttp {re.escape(version)}: PYSEC-aiohttp CVE-2030-1"):
        publish(order, "abc")
    assert not (tmp_path / "dist" / f"lantern-{VERSION}").exists()


@pytest.mark.parametrize(
    ("affected", "applies"),
    [
        ({"versions": ["1.5"]}, True),
        ({"versions": ["1.4", "1.6"]}, False),
        ({"ranges": ranges({"introduced": "0"}, {"fixed": "1.6"})}, True),
        ({"ranges": ranges({"introduced": "0"}, {"fixed": "1.5"})}, False),
        ({"ranges": ranges({"introduced": "1.0"}, {"last_affected": "1.5"})}, True),
        ({"ranges": ranges({"introduced": "1.0"}, {"last_affected": "1.4.9"})}, False),
        ({"ranges": ranges({"introduced": "1.0"}, {"fixed": "1.2"}, {"introduced": "1.4"})}, True),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_ranges_of_advisories_are_read_as_osv_defines_them(
    tmp_path: Path, affected: dict[str, object], applies: bool
) -> None:
    root, listed = tmp_path / "root", tmp_path / "list"
    for lock in LOCKS:
        (root / lock).parent.mkdir(parents=True)
        (root / lock).write_text("some-package==1.5 \\\n    --hash=sha256:00\n")
    listed.mkdir()
    (listed / "one.yaml").write_text(json.dumps(advisory("Some_Package", affected)))
    report = check_locks(listed, _DAY, root)
    assert [hole.package for hole in report.holes] == (["some-package"] if applies else [])
    assert report.why is None


def test_a_hole_that_was_closed_here_is_listed_with_the_reason(tmp_path: Path) -> None:
    events = ranges({"introduced": "4.56.0"}, {"fixed": "5.3.0"})
    entry = advisory("transformers", {"ranges": events}, number="CVE-2026-4372")
    (tmp_path / "one.json").write_text(json.dumps(entry))
    [hole] = (report := check_locks(tmp_path, _DAY)).holes
    assert (hole.package, hole.version[:4]) == ("transformers", "4.57")
    assert hole.reason is not None
    assert not report.open_holes


def test_an_old_list_is_no_check(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps({**advisory("x", {}), "modified": "2024-10-10T00:00:00Z"}))
    report = check_locks(tmp_path, _DAY)
    assert report.why == "the newest entry of the list is of 2024-10-10"
    with pytest.raises(SystemExit, match="does not exist"):
        check_locks(tmp_path / "absent", _DAY)


def test_each_closed_hole_names_tests_that_exist() -> None:
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    packages = {name for name, _ in locked()}
    assert len(closed_holes()) >= 4
    for entry in closed_holes():
        assert entry["package"] in packages, "a hole of a package that is no longer locked"
        assert entry["reason"]
        for name in entry["tests"]:
            assert f"def {name}(" in text, name


def test_the_makefile_leaves_each_record_that_a_release_reads() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for command in tried.RUNS.values():
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
    assert makefile.count("$(TRIED)/") >= len(tried.RUNS)


def test_every_processor_has_its_package() -> None:
    assert [part.name for part in debs()] == ["the package for arm64"] * 2 + ["the package for amd64"]

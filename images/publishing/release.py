"""`make release`: all files of one version in dist/lantern-VERSION, which appears complete or not at all."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.home import lantern_home
from images.publishing import tried
from images.publishing.advisories import Report, check_locks
from images.publishing.checksums import PUBLIC, check_release, sign_release
from images.publishing.needs import describe_needs, missing_needs
from images.publishing.notes import CHANGELOG, changelog_entry, release_notes
from images.publishing.parts import Part, build_twice, debs, wheel
from images.raspberry_pi.image import PYTHON, build_card_and_update
from images.signing import RELEASE_KEY, keys_folder
from images.workplace import ROOT, VERSION, say

NOTES = f"lantern-{VERSION}-notes.md"


@dataclass(frozen=True, slots=True)
class Order:
    """The content of a release and its sources: the list of known holes, the records of tests, the keys."""

    out: Path
    has_image: bool = True
    advisories: Path | None = None
    records: Path = tried.FOLDER
    keys: Path | None = None
    parts: Sequence[Part] | None = None

    @property
    def key_folder(self) -> Path:
        """Return the folder of the keys."""
        return self.keys or keys_folder()


def release(order: Order) -> Path:
    """Tell the needs, build everything, and return the folder with it.

    Raises:
        SystemExit: a need is not met, named; a build failed, or differs from its second; a known hole is open.
    """
    say(describe_needs(order.key_folder, has_image=order.has_image))
    lacking = missing_needs(order.key_folder, lantern_home(), order.out, has_image=order.has_image)
    if lacking:
        raise SystemExit("A release is not possible yet:\n" + "\n".join(f"  {need}" for need in lacking))
    return publish(order, _commit(), head=_commit)


def publish(order: Order, commit: str, *, head: Callable[[], str] | None = None) -> Path:
    """Build everything of a commit whose needs are met; `head` returns the commit that the builds take."""
    entry = changelog_entry(VERSION, CHANGELOG.read_text("utf-8"))
    report = check_locks(order.advisories, entry.date)
    _refuse_open_holes(report)
    runs = tried.read_runs(commit, order.records)
    if broken := tried.failed(runs):
        raise SystemExit(f"Tests failed at this commit: {', '.join(broken)}; see {order.records / commit}.")
    target = order.out / f"lantern-{VERSION}"
    order.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=order.out, prefix=".release-") as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        with _unmoved(commit, head or (lambda: commit)):
            build_twice([wheel(), *debs()] if order.parts is None else order.parts, folder)
        if order.has_image:
            build_card_and_update(folder, next(folder.glob(f"lantern_*py{PYTHON.replace('.', '')}_arm64.deb")))
        (folder / f"lantern-{VERSION}-advisories.json").write_text(report.to_json(), "utf-8")
        files = [path for path in folder.iterdir() if path.suffix != ".img"]
        notes = release_notes(entry, commit, files, report.sentence(), tried.describe(runs))
        (folder / NOTES).write_text(notes, "utf-8")
        for image in folder.glob("*.img"):  # people download the compressed one
            image.unlink()
        sign_release(folder, order.key_folder / RELEASE_KEY)
        check_release(folder, folder / PUBLIC)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    say(f"{target}: {len(list(target.iterdir()))} files. {report.sentence()}")
    return target


@contextlib.contextmanager
def _unmoved(commit: str, head: Callable[[], str]) -> Iterator[None]:
    """Refuse builds of several commits, whose difference would be told in the place of the cause."""
    try:
        yield
    finally:
        if (found := head()) != commit:
            raise SystemExit(f"The repository went from {commit[:12]} to {found[:12]} during the builds; begin anew.")


def _refuse_open_holes(report: Report) -> None:
    if report.open_holes:
        told = "\n".join(f"  {h.package} {h.version}: {h.id} {' '.join(h.aliases)}" for h in report.open_holes)
        raise SystemExit(
            f"Locked packages have known holes:\n{told}\nLock newer versions (make lock), or show by a test that a "
            "hole does not matter and add it to images/publishing/closed.toml."
        )


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

"""A card of 0.1.0 that is in use takes this version, falls back where it has to, and loses nothing on the way.

Needs LANTERN_OLDER_IMAGE, the image of commit 1c9e0b8, made with the same update keys: in a worktree of that commit,
with a LANTERN_HOME of its own, `python -m quantize starter` and `python -m images image --board raspberry-pi
--uncompressed`. The tests run with that LANTERN_HOME, whose signer the card trusts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from images.raspberry_pi.image import build_update
from images.workplace import VERSION
from tests.images.boots.board import MINUTES, Board, Card, switched_on
from tests.images.boots.figures import tell
from tests.images.boots.test_2_updates import later, push
from tests.images.boots.test_3_power_cuts import variant
from tests.images.boots.user import CHAT, EMBEDDING, User

_OLDER = "0.1.0"
_ALIAS, _PUSHED = "gpt-4o-mini", "pushed"
_NAME = "kitchen"
_MEMORY_MIB = 2048  # 0.1.0 refuses a third model on a board of 1 GiB
_MOST_HEALTHY_S = 6 * 60.0
_MOST_BYTES = 400_000_000

pytestmark = pytest.mark.skipif(
    "LANTERN_OLDER_IMAGE" not in os.environ, reason="set LANTERN_OLDER_IMAGE to the image of 0.1.0"
)


@dataclass(frozen=True, slots=True)
class Belongings:
    """Everything that the owner of a device would miss."""

    running: str
    pin: str
    keys: tuple[tuple[str, str], ...]
    aliases: tuple[tuple[str, str], ...]
    models: tuple[tuple[str, str], ...]
    is_claimed: bool

    def at(self, version: str) -> Belongings:
        """Return the same under another version."""
        return Belongings(version, self.pin, self.keys, self.aliases, self.models, self.is_claimed)


@pytest.fixture(scope="module")
def folder(scratch: Path) -> Path:
    place = scratch / "from-0.1.0"
    place.mkdir(exist_ok=True)
    return place


@pytest.fixture(scope="module")
def older(folder: Path) -> Iterator[Board]:
    card = Card(Path(os.environ["LANTERN_OLDER_IMAGE"]), folder)
    card.write("lantern.toml", f'[device]\nname = "{_NAME}"\n[server]\nmax_wait_s = 900\n'.encode())
    with switched_on(card, folder, memory_mib=_MEMORY_MIB) as running:
        yield running


@pytest.fixture(scope="module")
def owner(older: Board, folder: Path) -> User:
    """The owner, who has used the device for a while: a model, an alias, a second key."""
    tell(f"{_OLDER}: power-on to /health", f"{older.wait_for_health():.0f} s")
    homes = folder / "homes"
    homes.mkdir(exist_ok=True)
    person = User(older, homes)
    person.claim_without_code()
    older.wait_for("is healthy and confirmed")
    bundle = variant(folder, _PUSHED)
    for words in (
        ("models", "install", str(bundle)),
        ("models", "alias", _ALIAS, CHAT),
        ("keys", "create", "phone", "--rate", "60/min"),
    ):
        done = person.lantern(*words, "--device", older.tls_url)
        assert done.returncode == 0, done.stderr
    return person


@pytest.fixture(scope="module")
def before(owner: User) -> Belongings:
    """The belongings at 0.1.0."""
    found = belongings(owner)
    assert found.running == _OLDER
    assert {name for name, _ in found.models} == {CHAT, EMBEDDING, _PUSHED}
    assert {name for name, _ in found.keys} == {"owner", "phone"}
    assert found.aliases == ((_ALIAS, CHAT),)
    return found


def belongings(person: User) -> Belongings:
    """Ask the device for all of it, as its owner."""
    listed = json.loads(person.lantern("models", "list", "--json", "--device", person.url).stdout)
    keys = person.administer("GET", "/admin/keys")["keys"]
    return Belongings(
        running=person.administer("GET", "/admin/update")["running"],
        pin=person.pin(),
        keys=tuple(sorted((key["name"], key["role"]) for key in keys)),
        aliases=tuple(sorted(person.administer("GET", "/admin/aliases")["aliases"].items())),
        models=tuple(sorted((model["name"], model["digest"]) for model in listed["models"])),
        is_claimed=person.lantern("claim", "--device", person.url, "--as", "somebody-else").returncode != 0,
    )


def check_use(person: User) -> None:
    """Every model answers, by its alias too."""
    assert "Paris" in person.ask()
    assert "Paris" in person.ask(model=_ALIAS)
    for model in (EMBEDDING, _PUSHED):
        assert person.likeness("a dog", "a dog", model=model) > 0.99


def unconfirmed(tree: Path) -> None:
    """Let the service serve, and the confirmation fail: the new version writes its files before it is left."""
    [product] = tree.glob("opt/lantern/lib/python3*/site-packages/appliance/engine/runtime/product.py")
    text = product.read_text("utf-8")
    head, found, _ = text.partition('if __name__ == "__main__":\n')
    assert found, "the confirmation runs this module"
    product.write_text(f"{head}{found}    sys.exit('broken on purpose')\n")
    for compiled in product.parent.glob("__pycache__/product.*"):
        compiled.unlink()


def test_it_is_in_use(owner: User, before: Belongings) -> None:
    assert before.is_claimed
    check_use(owner)


def test_a_broken_update_falls_back_and_keeps_all(older: Board, owner: User, before: Belongings, folder: Path) -> None:
    """0.1.0 reads what this version has written: it serves until the confirmation gives up."""
    bundle = build_update(folder / "updates", version="0.1.9", change=unconfirmed)
    older.more = "lantern.deadline=240"
    result = push(older, owner, bundle, timeout_s=60 * MINUTES)
    older.more = ""
    assert result.returncode != 0
    assert "did not become healthy" in result.stderr
    assert belongings(owner) == before
    check_use(owner)


def test_this_version_runs_and_all_of_it_is_there(older: Board, owner: User, before: Belongings, folder: Path) -> None:
    bundle = build_update(folder / "updates", version=VERSION)
    assert bundle.stat().st_size <= _MOST_BYTES
    starts = len(older.starts_s)
    result = push(older, owner, bundle)
    assert result.returncode == 0, result.stderr
    took_s = time.monotonic() - older.starts_s[starts]
    tell("the update", f"{bundle.stat().st_size / 1e6:.0f} MB")
    tell(f"{_OLDER} to {VERSION}: start of the new system to confirmed", f"{took_s:.0f} s")
    assert f"{VERSION} runs" in result.stdout
    assert belongings(owner) == before.at(VERSION)
    check_use(owner)
    assert took_s <= _MOST_HEALTHY_S * MINUTES / 60


def test_back_and_forth_once_more(older: Board, owner: User, before: Belongings, folder: Path) -> None:
    older.more = "lantern.deadline=240"
    result = push(older, owner, build_update(folder / "updates", version=later(1), change=unconfirmed), 60 * MINUTES)
    older.more = ""
    assert "did not become healthy" in result.stderr
    assert belongings(owner) == before.at(VERSION)
    result = push(older, owner, build_update(folder / "updates", version=later(2)))
    assert result.returncode == 0, result.stderr
    assert older.card.read("slot.txt") == b"os_prefix=a/\n"
    assert belongings(owner) == before.at(later(2))
    check_use(owner)

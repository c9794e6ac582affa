"""The image's system, booted by systemd-nspawn for this machine's processor: its units, its settings, its page.

What needs a card (the chooser, the growing partition) is masked; `tests/images/boots` shows it. The machine id, which
the initramfs makes, is mounted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from appliance.home import Home
from tests.systemd.container import Container, missing, until, wait_for_boot

_BOOT = """
umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; mkdir -p /run/systemd/system
exec systemd-nspawn --quiet --directory=$TREE --volatile=overlay --machine=$NAME --register=no --keep-unit \
    --private-network --link-journal=no --resolv-conf=off --timezone=off --console=pipe \
    --bind=$DATA:/var/lib/private/lantern --bind-ro=$SETTINGS:/run/lantern/boot --bind=$ID:/etc/machine-id \
    /lib/systemd/systemd \
    systemd.mask=systemd-machine-id-commit.service systemd.mask=lantern-grow.service \
    systemd.mask=lantern-confirm.service systemd.mask=systemd-zram-setup@zram0.service
"""
_SETTINGS = """
[device]
name = "Kitchen"
time_zone = "Europe/Zurich"
colour = "green"

[server]
port = "many"
"""
_ASK = """
import json, sys, urllib.request
with urllib.request.urlopen("http://127.0.0.1/health", timeout=20) as answer:
    print(json.dumps(json.load(answer)))
"""

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def container(twin: Path, starter_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    folder = tmp_path_factory.mktemp("nspawn")
    data, settings, log = folder / "data", folder / "settings", folder / "log"
    shutil.copytree(starter_home.trusted_keys, data / "keys/trusted")
    data.chmod(0o700)
    settings.mkdir()
    (settings / "lantern.toml").write_text(_SETTINGS, "utf-8")
    machine_id = folder / "machine-id"  # what the initramfs makes
    machine_id.write_text(f"{uuid.uuid4().hex}\n")
    places = {"TREE": twin, "DATA": data, "SETTINGS": settings, "ID": machine_id}
    variables = {"NAME": f"lantern-image-{os.getpid()}"} | {key: str(path) for key, path in places.items()}
    with log.open("wb") as file:
        boot = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", _BOOT],
            env={**os.environ, **variables, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield wait_for_boot(boot, log)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(boot.pid).children(recursive=True):
                process.kill()
        boot.kill()
        boot.wait(30)


def test_every_unit_starts_and_the_appliance_answers_on_the_port_that_people_leave_out(container: Container) -> None:
    until(lambda: container.show("lantern.service", "ActiveState") == "active", timeout_s=300)
    health = json.loads(container.run("/opt/lantern/bin/python", "-c", _ASK))
    assert health["status"]
    assert container.run("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    assert "ordering cycle" not in container.run("journalctl", "--no-pager", "--boot")


def test_the_settings_of_the_boot_partition_count_and_what_is_wrong_in_them_stops_nothing(container: Container) -> None:
    assert container.run("readlink", "/etc/localtime") == "/usr/share/zoneinfo/Europe/Zurich"
    problems = container.run("cat", "/run/lantern/problems")
    assert "colour" in problems
    assert "port" in problems


def test_its_page_tells_how_to_claim_it_and_what_was_not_understood(container: Container) -> None:
    page = container.run("/opt/lantern/bin/python", "-m", "appliance.system.console")
    assert "lantern claim" in page
    assert "sha256//" in page
    assert "colour" in page


def test_the_journal_is_in_memory_and_nothing_listens_that_was_not_asked_for(container: Container) -> None:
    assert container.run("ls", "/var/log/journal", check=False) == ""
    assert container.run("ls", "/run/log/journal")
    listening = {line.split()[3].rpartition(":")[2] for line in container.run("ss", "-Hltn").splitlines()}
    assert listening <= {"80", "443", "8080", "8443", "53"}

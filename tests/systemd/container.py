"""A booted systemd of its own: this machine's /usr in a systemd-nspawn container, and the appliance installed in it.

Needs root, systemd-nspawn and cgroups; nothing of the host is changed. What is inside is reached by nsenter.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from appliance.home import Home

ROOT = Path(__file__).parents[2]
_SITE = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
_INIT = "/lib/systemd/systemd"
_BOOT = f"""
umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; mkdir -p /run/systemd/system
exec systemd-nspawn --quiet --directory=/ --volatile=yes --machine=$NAME --register=no --keep-unit --private-network \
    --link-journal=no --resolv-conf=off --timezone=off --console=pipe --bind-ro=$PYTHON:/opt/python \
    --bind-ro=$SITE:/opt/site --bind-ro=$SOURCE:/opt/source --bind-ro=$MODELS:/opt/models {_INIT}
"""
_INSTALL = """
set -e
export LD_LIBRARY_PATH=/opt/python/lib
/opt/python/bin/python3 -m venv --without-pip /opt/lantern
site=$(echo /opt/lantern/lib/python3*/site-packages)
cp -r /opt/source/appliance $site/
echo /opt/site >$site/site.pth
cat >/opt/lantern/bin/lantern <<'END'
#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib
exec /opt/lantern/bin/python -m appliance "$@"
END
chmod 755 /opt/lantern/bin/lantern
cp /opt/source/systemd/*.service /opt/source/systemd/*.socket /etc/systemd/system/
mkdir -p -m 700 /var/lib/lantern/keys
cp -r /opt/models/trusted /var/lib/lantern/keys/
cp -r /opt/models/bundles /var/lib/lantern/
systemctl daemon-reload
"""


_ENVIRONMENT = {
    "HOME": "/root",
    "LANTERN_HOME": "/var/lib/lantern",
    "PATH": "/usr/sbin:/usr/bin:/opt/lantern/bin",
    "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
}


def missing() -> str | None:
    """Return the reason why no container can be booted here; None if one can."""
    if os.geteuid() != 0:
        return "needs root"
    for tool in ("systemd-nspawn", "nsenter", "unshare"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None


@dataclass(frozen=True, slots=True)
class Container:
    """A running container; `pid` is its init."""

    pid: int

    def run(self, *command: str, check: bool = True, timeout_s: float = 60.0, key: str = "") -> str:
        """Run a command inside, as a client with this key, and return what it printed."""
        result = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", "--wd=/", *command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=_ENVIRONMENT | ({"LANTERN_API_KEY": key} if key else {}),
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result.stdout.strip()

    def shell(self, script: str, *, timeout_s: float = 60.0) -> str:
        return self.run("bash", "-c", script, timeout_s=timeout_s)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit)

    def probe(self, *arguments: str) -> subprocess.Popen[str]:
        """Start tests/systemd/prober.py in the container's network."""
        prober = str(ROOT / "tests" / "systemd" / "prober.py")
        return subprocess.Popen(
            ["nsenter", "-t", str(self.pid), "-n", sys.executable, prober, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def health(self) -> dict[str, Any] | None:
        """Return the answer of /health; None if there is none."""
        text = self.run("curl", "--silent", "--max-time", "5", "http://127.0.0.1:8080/health", check=False)
        answer: dict[str, Any] | None = json.loads(text) if text else None
        return answer

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit as an administrator would; an empty text takes it back."""
        folder = f"/etc/systemd/system/{unit}.d"
        if text:
            self.run("bash", "-c", f"mkdir -p {folder} && printf '%s' \"$0\" >{folder}/test.conf", text)
        else:
            self.run("rm", "-rf", folder)
        self.run("systemctl", "daemon-reload")


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Look again and again; the container has no event to wait for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def booted(models: Home, scratch: Path) -> Iterator[Container]:
    """A container with the appliance installed and not started, until the block is left."""
    folder = scratch / "models"
    shutil.copytree(models.trusted_keys, folder / "trusted")
    for name in (p.name for p in models.bundles.iterdir() if (p / "active").is_symlink()):
        active = (models.bundles / name / "active").readlink().name
        shutil.copytree(models.bundles / name / active, folder / "bundles" / name / active)
        (folder / "bundles" / name / "active").symlink_to(active)
    variables = {
        "NAME": f"lantern-{os.getpid()}",
        "PYTHON": sys.base_prefix,
        "SITE": str(_SITE),
        "SOURCE": str(ROOT),
        "MODELS": str(folder),
        "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    }
    with (scratch / "boot.log").open("wb") as log:
        boot = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", _BOOT],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        container = wait_for_boot(boot, scratch / "boot.log")
        container.shell(_INSTALL)
        yield container
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(boot.pid).children(recursive=True):
                process.kill()
        boot.kill()
        boot.wait(30)


def wait_for_boot(boot: subprocess.Popen[bytes], log: Path) -> Container:
    """The container below this process, once its systemd has started everything."""
    found: list[Container] = []

    def is_up() -> bool:
        assert boot.poll() is None, log.read_text("utf-8", "replace")
        for process in psutil.Process(boot.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:1] == [_INIT]:
                    container = Container(process.pid)
                    state = container.run("systemctl", "is-system-running", check=False)
                    if state in {"running", "degraded"}:
                        found.append(container)
                        return True
        return False

    until(is_up)
    return found[0]

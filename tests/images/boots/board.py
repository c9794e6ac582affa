"""A board in QEMU that starts from the card as a Raspberry Pi's firmware does, and the workstation beside it.

The firmware's part is played here: config.txt and slot.txt are read from the FAT partition at every start; the kernel,
initramfs and command line that they name are given to QEMU's `virt` machine. A restart of the guest ends QEMU, and the
card is read anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from images.raspberry_pi.layout import BOOT

T = TypeVar("T")

CARD_GIB = 6
# How much longer than on a quiet machine everything may take.
MINUTES = 60.0 * float(os.environ.get("LANTERN_IMAGE_PATIENCE", "1"))
# A machine that others use lets an emulated one stand still for longer than a hung board may.
PATIENT_WATCHDOG = "systemd.watchdog_sec=120"
_PORTS = {"http": 8080, "https": 8443}


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Card:
    """A card with the image on it, of its own size; what is written stays."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.path = folder / "card.img"
        subprocess.run(["cp", "--sparse=always", str(image), str(self.path)], check=True)
        with self.path.open("r+b") as file:
            file.truncate(CARD_GIB << 30)

    @property
    def _fat(self) -> str:
        return f"{self.path}@@{BOOT.start}M"

    def read(self, name: str) -> bytes:
        """A file of the FAT partition."""
        command = ["mtype", "-i", self._fat, f"::{name}"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def copy(self, folder: str, target: Path) -> None:
        """The files of a folder of the FAT partition."""
        subprocess.run(["mcopy", "-n", "-i", self._fat, f"::{folder}/*", target], check=True)

    def write(self, name: str, data: bytes) -> None:
        """Write to the card as a user does in a card reader."""
        subprocess.run(["mcopy", "-o", "-i", self._fat, "-", f"::{name}"], input=data, check=True)

    def boot_files(self, folder: Path, board: str = "all") -> tuple[Path, Path, str]:
        """Kernel, initramfs and command line that the firmware of this board would take."""
        chosen = self._configuration(board)
        prefix = chosen["os_prefix"]
        kernel, initramfs = folder / "kernel", folder / "initramfs"
        kernel.write_bytes(self.read(prefix + chosen["kernel"]))
        initramfs.write_bytes(self.read(prefix + chosen["initramfs"].split()[0]))
        return kernel, initramfs, self.read(f"{prefix}cmdline.txt").decode().strip()

    def _configuration(self, board: str) -> dict[str, str]:
        found: dict[str, str] = {}
        section = "all"
        lines = self.read("config.txt").decode().splitlines()
        while lines:
            line = lines.pop(0).strip()
            if line.startswith("["):
                section = line.strip("[]")
            elif section in ("all", board) and not line.startswith("#"):
                name, value = re.split(r"[= ]", line, maxsplit=1) if re.search(r"[= ]", line) else (line, "")
                if name == "include":
                    lines = self.read(value).decode().splitlines() + lines
                found[name] = value
        return found


class Board:
    """A running board; everything it says on its serial line is in `log`."""

    def __init__(
        self, card: Card, folder: Path, *, kernel_of: str = "all", more: str = "", memory_mib: int = 1024
    ) -> None:
        """`kernel_of` is the board whose sections of config.txt count."""
        self.card = card
        self.log = folder / "serial.log"
        self.log.touch()
        self.ports = {name: free_port() for name in _PORTS}
        self.starts_s: list[float] = []
        self._folder = folder
        self._kernel_of = kernel_of
        self._memory_mib = memory_mib
        self.more = more  # of the kernel's command line, from the next start on
        self._process: subprocess.Popen[bytes] | None = None
        self._power = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def tls_url(self) -> str:
        return f"https://127.0.0.1:{self.ports['https']}"

    def switch_on(self) -> None:
        self._power.set()
        self._thread = threading.Thread(target=self._run, name="asyncio_board")
        self._thread.start()

    def cut_power(self) -> None:
        """At once, as when the plug is pulled: what the guest had not flushed is as QEMU left it."""
        self._power.clear()
        if self._process is not None:
            self._process.kill()
        assert self._thread is not None
        self._thread.join()

    def text(self, since: int = 0) -> str:
        """Return the serial line's text since an offset."""
        return self.log.read_bytes()[since:].decode("utf-8", "replace")

    def mark(self) -> int:
        return self.log.stat().st_size

    def wait_for(self, what: str, *, since: int = 0, timeout_s: float = 15 * MINUTES) -> re.Match[str]:
        """Wait until the serial line has said something."""
        return until(lambda: re.search(what, self.text(since)), self._is_on, timeout_s, what, self.log)

    def wait_for_health(self, timeout_s: float = 15 * MINUTES) -> float:
        """Wait until /health is answered; seconds since the last start."""
        until(self._is_healthy, self._is_on, timeout_s, "health", self.log)
        return time.monotonic() - self.starts_s[-1]

    def wait_until(self, look: Callable[[], T | None], what: str, *, timeout_s: float = 15 * MINUTES) -> T:
        """Wait until something is so."""
        return until(look, self._is_on, timeout_s, what, self.log)

    def wait_until_written(self, end_bytes: int) -> None:
        """Wait until that much was written since the start, or the guest starts again."""
        starts = len(self.starts_s)

        def is_written() -> bool:
            try:
                return self.written_bytes() >= end_bytes or len(self.starts_s) != starts
            except OSError:  # QEMU has just ended
                return len(self.starts_s) != starts

        self.wait_until(is_written, f"{end_bytes} bytes written")

    def written_bytes(self) -> int:
        """Return the bytes that the guest has written to the card since its start, as QEMU counts."""
        with socket.socket(socket.AF_UNIX) as sock, contextlib.ExitStack() as files:
            sock.settimeout(30)
            sock.connect(str(self._folder / "qmp"))
            file = files.enter_context(sock.makefile("rw"))
            for command in ("qmp_capabilities", "query-blockstats"):
                file.write(json.dumps({"execute": command, "id": command}) + "\n")
                file.flush()
            answer: dict[str, Any] = {}
            while answer.get("id") != "query-blockstats":
                answer = json.loads(file.readline())
        return sum(int(disk["stats"]["wr_bytes"]) for disk in answer["return"])

    def _is_healthy(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.base_url}/health", timeout=10) as answer:
            return bool(answer.status == 200)
        return False

    def _is_on(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while self._power.is_set():
            work = self._folder / "firmware"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            kernel, initramfs, cmdline = self.card.boot_files(work, self._kernel_of)
            with self.log.open("ab") as log:
                log.write(f"\n=== firmware: {cmdline}\n".encode())
                log.flush()
                self.starts_s.append(time.monotonic())
                self._process = subprocess.Popen(
                    self._command(kernel, initramfs, cmdline), stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
                if self._process.wait() != 0:
                    return

    def _command(self, kernel: Path, initramfs: Path, cmdline: str) -> list[str]:
        forwards = ",".join(f"hostfwd=tcp:127.0.0.1:{self.ports[n]}-:{inside}" for n, inside in _PORTS.items())
        console = cmdline.replace("console=serial0,115200", "console=ttyAMA0")
        append = f"{console} {self.more} lantern.deadline=900 {PATIENT_WATCHDOG}"
        return [
            *("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", str(self._memory_mib)),
            *("-accel", "tcg,thread=multi,tb-size=512", "-nographic", "-no-reboot"),
            *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", append),
            *("-drive", f"file={self.card.path},if=virtio,format=raw,cache=writeback"),
            *("-netdev", f"user,id=net,restrict=on,{forwards}", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-qmp", f"unix:{self._folder / 'qmp'},server=on,wait=off"),
            *("-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset"),
        ]


@contextlib.contextmanager
def switched_on(card: Card, folder: Path, *, memory_mib: int = 1024) -> Iterator[Board]:
    """Run a board with this card until the block is left, when its power is cut."""
    board = Board(card, folder, memory_mib=memory_mib)
    board.switch_on()
    try:
        yield board
    finally:
        board.cut_power()


def until(look: Callable[[], T | None], is_on: Callable[[], bool], timeout_s: float, what: str, log: Path) -> T:
    """Look again and again, since a guest has nothing to wait on; fails with the end of the log."""
    end_s = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        last = log.read_bytes()[-3000:].decode("utf-8", "replace")
        assert is_on(), f"the board is off, waiting for {what}:\n{last}"
        assert time.monotonic() < end_s, f"no {what} within {timeout_s:.0f} s:\n{last}"
        time.sleep(0.5)

"""The layout of the card. Devices in the field cannot be repartitioned: it does not change any more.

MBR, since the Pi 3's ROM starts from nothing else. The boot state (usr/lib/lantern/slot.sh) lies in sectors 2048 and
4096, before the first partition. The extended partition has type 05, since with 0f a Pi 3B+ does not start.
"""

from __future__ import annotations

from dataclasses import dataclass

DISK_ID = "4c414e54"
SECTORS_A_MIB = 2048
FAT_MIB = 512
SYSTEM_MIB = 1024
DATA_MIB = 320
_GAP_MIB = 4


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition, in MiB from the beginning of the card."""

    number: int
    start: int
    size: int
    type: str

    @property
    def line(self) -> str:
        """For sfdisk."""
        active = ", bootable" if self.number == 1 else ""
        start, size = self.start * SECTORS_A_MIB, self.size * SECTORS_A_MIB
        return f"card{self.number} : start={start}, size={size}, type={self.type}{active}"


BOOT = Partition(1, _GAP_MIB, FAT_MIB, "c")
RESERVED = Partition(2, BOOT.start + FAT_MIB, FAT_MIB, "c")
EXTENDED = Partition(3, RESERVED.start + FAT_MIB, 2 * (SYSTEM_MIB + _GAP_MIB) + _GAP_MIB, "5")
SYSTEM_A = Partition(5, EXTENDED.start + _GAP_MIB, SYSTEM_MIB, "83")
SYSTEM_B = Partition(6, SYSTEM_A.start + SYSTEM_MIB + _GAP_MIB, SYSTEM_MIB, "83")
DATA = Partition(4, EXTENDED.start + EXTENDED.size, DATA_MIB, "83")

TABLE = "\n".join(
    [
        "label: dos",
        f"label-id: 0x{DISK_ID}",
        "unit: sectors",
        *(p.line for p in (BOOT, RESERVED, EXTENDED, DATA, SYSTEM_A, SYSTEM_B)),
    ]
)
SIZE_MIB = DATA.start + DATA.size

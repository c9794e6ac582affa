"""A QR code as text for a dark screen and a serial line: two modules a character, colours set explicitly."""

from __future__ import annotations

import segno

_BORDER = 2
_COLOURS, _RESET = "\x1b[37;40m", "\x1b[0m"
_BLOCKS = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}


def screen_code(text: str) -> list[str]:
    """Return the lines of a QR code; light modules are drawn, since the screen is dark."""
    rows = [[bool(module) for module in row] for row in segno.make_qr(text, error="l").matrix_iter(border=_BORDER)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    lines = ("".join(_BLOCKS[pair] for pair in zip(*both, strict=True)) for both in pairs)
    return [f"{_COLOURS}{line}{_RESET}" for line in lines]

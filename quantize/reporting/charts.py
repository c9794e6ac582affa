"""Three drawings as SVG and HTML text: a scatter with a logarithmic axis, bars, and a table of shades.

Colours come from the page's style sheet, by class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 44
_NUM_SHADES = 9
_NARROWEST = 4  # bits, which get no label


@dataclass(frozen=True, slots=True)
class Point:
    """A mark of a scatter; `y` is drawn on a logarithmic axis."""

    x: float
    y: float
    label: str
    is_chosen: bool = False


def scatter(points: Sequence[Point], *, x_title: str, y_title: str) -> str:
    """Draw points joined in the order of x, each with a tooltip."""
    known = sorted((point for point in points if point.y > 0), key=lambda point: point.x)
    if not known:
        return ""
    x_low, x_high = _padded(known[0].x, known[-1].x)
    y_low, y_high = _padded(*(math.log10(f(p.y for p in known)) for f in (min, max)))

    def place(x: float, log_y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        down = (y_high - log_y) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + across, 1), round(_TOP + down, 1)

    marks = [place(point.x, math.log10(point.y)) for point in known]
    ticks = [_x_tick(place(x, y_low), f"{x:g}") for x in _round_steps(x_low, x_high)]
    ticks += [_y_tick(place(x_low, math.log10(y)), f"{y:g}") for y in _log_steps(y_low, y_high)]
    line = " ".join(f"{x},{y}" for x, y in marks)
    dots = "".join(
        f'<circle class="{"chosen" if point.is_chosen else "tried"}" cx="{x}" cy="{y}" r="5">'
        f"<title>{escape(point.label)}</title></circle>"
        for point, (x, y) in zip(known, marks, strict=True)
    )
    return _figure("".join(ticks) + f'<polyline class="line" points="{line}"/>' + dots, x_title, y_title)


def bars(edges: Sequence[float], counts: Sequence[int], *, x_title: str, y_title: str) -> str:
    """Draw a histogram whose edges are powers of ten, given by their exponents."""
    most = max(max(counts, default=0), 1)
    wide = (_WIDTH - _LEFT - _RIGHT) / max(len(counts), 1)
    tall = _HEIGHT - _TOP - _BOTTOM
    drawn = []
    for index, count in enumerate(counts):
        height = round(tall * count / most, 1)
        x, y = round(_LEFT + index * wide, 1), round(_TOP + tall - height, 1)
        title = f"<title>{10 ** edges[index]:.2g} to {10 ** edges[index + 1]:.2g}: {count}</title>"
        drawn.append(f'<rect class="bar" x="{x}" y="{y}" width="{wide - 1:.1f}" height="{height}">{title}</rect>')
    whole = [(i, edge) for i, edge in enumerate(edges) if float(edge).is_integer()]
    ticks = [_x_tick((round(_LEFT + i * wide, 1), _TOP + tall), f"1e{int(edge)}") for i, edge in whole]
    ticks += [_y_tick((_LEFT, round(_TOP + tall * (1 - share), 1)), f"{most * share:.0f}") for share in (0.5, 1.0)]
    return _figure("".join(ticks) + "".join(drawn), x_title, y_title)


def shades(rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], tuple[float, int]]) -> str:
    """Draw a table of (row, column) to a value and its bits; darker means larger (logarithmic)."""
    values = [value for value, _ in cells.values() if value > 0]
    low, high = (math.log10(min(values)), math.log10(max(values))) if values else (0.0, 1.0)
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = []
    for row in rows:
        drawn = "".join(_cell(cells.get((row, column)), low, high) for column in columns)
        body.append(f'<tr><th scope="row">{escape(row)}</th>{drawn}</tr>')
    return f'<table class="shades"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _cell(entry: tuple[float, int] | None, low: float, high: float) -> str:
    if entry is None:
        return "<td></td>"
    value, bits = entry
    share = (math.log10(value) - low) / (high - low) if value > 0 and high > low else 0.0
    shade = min(_NUM_SHADES - 1, max(0, int(share * _NUM_SHADES)))
    text = f"{value * 1e3:.2f}" + (f" · {bits}" if bits != _NARROWEST else "")
    return f'<td class="s{shade}">{text}</td>'


def _figure(inner: str, x_title: str, y_title: str) -> str:
    right, bottom, middle = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, (_TOP + _HEIGHT - _BOTTOM) / 2
    frame = f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>'
    places = (f'x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}"', f'transform="translate(14 {middle}) rotate(-90)"')
    titles = "".join(
        f'<text class="title" {place} text-anchor="middle">{escape(title)}</text>'
        for place, title in zip(places, (x_title, y_title), strict=True)
    )
    label = escape(f"{y_title} by {x_title}", quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{frame}{inner}{titles}</svg>'


def _x_tick(at: tuple[float, float], text: str) -> str:
    return f'<text class="tick" x="{at[0]}" y="{at[1] + 16}" text-anchor="middle">{text}</text>'


def _y_tick(at: tuple[float, float], text: str) -> str:
    grid = f'<path class="grid" d="M{_LEFT} {at[1]}H{_WIDTH - _RIGHT}"/>'
    return f'{grid}<text class="tick" x="{at[0] - 6}" y="{at[1] + 4}" text-anchor="end">{text}</text>'


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.08 or max(abs(low) * 0.1, 0.1)
    return low - margin, high + margin


def _round_steps(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def _log_steps(low: float, high: float) -> list[float]:
    steps = [10.0**power * lead for power in range(math.floor(low), math.ceil(high) + 1) for lead in (1, 2, 5)]
    return [float(f"{step:.1g}") for step in steps if low <= math.log10(step) <= high]

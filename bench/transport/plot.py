"""The plot of bytes over the limit by loss, as SVG written by hand: no plotting library for one picture."""

import itertools
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 50, 60
COLOURS = ["#0b6e4f", "#c1440e", "#30588c", "#7d5ba6"]
FONT = 'font-family="sans-serif" font-size="13" fill="#222"'


def ratio_plot(
    series: Mapping[str, Mapping[str, float | None]], keys: Sequence[str], labels: Sequence[str], bar: float
) -> str:
    """Draw one line for each transport; where one does not finish, its line has a gap. The last row stands alone.

    Args:
        series: ratios by row key, by transport.
        keys: rows, from left to right.
        labels: of the rows.
        bar: what is promised, drawn as a dashed line.
    """
    known = [value for ratios in series.values() for value in (ratios.get(key) for key in keys) if value is not None]
    low, high = 1.0, max([bar, *known]) + 0.004
    step = 0.005 if high - low <= 0.06 else 0.02
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" {FONT} font-weight="bold">'
        "IP bytes both ways, over payload / (1 - loss); 1.0 is the limit</text>",
    ]

    def x_of(number: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (number + 0.5) / len(keys)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    tick = low
    while tick <= high:
        y = y_of(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" {FONT} text-anchor="end">{tick:.3f}</text>')
        tick = round(tick + step, 6)
    for number, label in enumerate(labels):
        parts.append(
            f'<text x="{x_of(number):.1f}" y="{HEIGHT - BOTTOM + 22}" {FONT} text-anchor="middle">{label}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 14}" {FONT} text-anchor="middle">packets lost, '
        "both ways</text>"
    )
    y = y_of(bar)
    parts.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#888" stroke-dasharray="6 4"/>'
        f'<text x="{WIDTH - RIGHT + 12}" y="{y + 4:.1f}" {FONT}>bar {bar}</text>'
    )
    for number, (name, ratios) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x_of(at), y_of(value)) for at, key in enumerate(keys) if (value := ratios.get(key)) is not None]
        parts += [
            f'<line x1="{x_of(at):.1f}" y1="{y_of(first):.1f}" x2="{x_of(at + 1):.1f}" y2="{y_of(second):.1f}" '
            f'stroke="{colour}" stroke-width="2"/>'
            for at, (one, two) in enumerate(itertools.pairwise(keys[:-1]))
            if (first := ratios.get(one)) is not None and (second := ratios.get(two)) is not None
        ]
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points]
        y = TOP + 90 + 20 * number
        parts.append(f'<circle cx="{WIDTH - RIGHT + 16}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 26}" y="{y}" {FONT}>{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"

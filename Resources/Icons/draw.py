"""Draw the icon: a grid bent by a smooth map over two overlapping outlines of one organ, in SVG and as 128 px PNG.

Run with an environment that has PySide6: ``python Resources/Icons/draw.py``. Writes DeepDiffReg.svg and DeepDiffReg.png beside
itself and a copy of both for the module.
"""

import math
from pathlib import Path

SIZE = 128
DARK, LINE, FIXED, MOVING = "#17324d", "#9fc3dd", "#ffb000", "#3ddbd9"
HERE = Path(__file__).resolve().parent
MODULE = HERE.parents[1] / "DeepDiffReg" / "Resources" / "Icons"


def bent(x: float, y: float) -> tuple[float, float]:
    """A point after the map: a swirl that fades to nothing toward the border."""
    u, v = x / SIZE - 0.5, y / SIZE - 0.5
    turn = 0.9 * math.exp(-(u * u + v * v) / 0.06)
    c, s = math.cos(turn), math.sin(turn)
    return SIZE * (0.5 + c * u - s * v), SIZE * (0.5 + s * u + c * v)


def outline(cx: float, cy: float, scale: float, tilt: float) -> list[tuple[float, float]]:
    """A bean shape (an organ with a hilum), closed, as 72 points."""
    points = []
    for k in range(72):
        t = 2 * math.pi * k / 72
        r = scale * (1 - 0.36 * math.exp(-((math.atan2(math.sin(t), math.cos(t)) / 0.55) ** 2)))
        x, y = 0.80 * r * math.cos(t), 1.12 * r * math.sin(t)
        points.append((cx + x * math.cos(tilt) - y * math.sin(tilt), cy + x * math.sin(tilt) + y * math.cos(tilt)))
    return points


def path(points: list[tuple[float, float]], closed: bool = False) -> str:
    """SVG path data through the points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + ("Z" if closed else "")


def grid() -> list[list[tuple[float, float]]]:
    """Lines of the bent grid, four each way."""
    steps = [8 + 112 * k / 28 for k in range(29)]
    places = [8 + 112 * (k + 0.5) / 4 for k in range(4)]
    return [[bent(p, s) for s in steps] for p in places] + [[bent(s, p) for s in steps] for p in places]


def svg() -> str:
    """The whole picture."""
    lines = "".join(f'<path d="{path(line)}"/>' for line in grid())
    fixed, moving = path(outline(57, 66, 40, 0.0), True), path(outline(73, 62, 40, 0.55), True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" width="{SIZE}" height="{SIZE}">'
        f"<title>DeepDiffReg</title>"
        f'<rect x="2" y="2" width="124" height="124" rx="22" fill="{DARK}"/>'
        f'<g fill="none" stroke="{LINE}" stroke-width="4" stroke-opacity="0.55" stroke-linecap="round">{lines}</g>'
        f'<path d="{moving}" fill="{MOVING}" fill-opacity="0.22" stroke="{MOVING}" stroke-width="9" stroke-linejoin="round"/>'
        f'<path d="{fixed}" fill="{FIXED}" fill-opacity="0.22" stroke="{FIXED}" stroke-width="9" stroke-linejoin="round"/>'
        f"</svg>\n"
    )


def main() -> None:
    """Write the files."""
    from PySide6.QtGui import QImage, QPainter
    from PySide6.QtSvg import QSvgRenderer

    picture = svg()
    image = QImage(SIZE, SIZE, QImage.Format.Format_ARGB32)
    image.fill(0)
    painter = QPainter(image)
    QSvgRenderer(picture.encode()).render(painter)
    painter.end()
    for folder in (HERE, MODULE):
        (folder / "DeepDiffReg.svg").write_text(picture, encoding="utf-8")
        image.save(str(folder / "DeepDiffReg.png"))


if __name__ == "__main__":
    main()

"""The convergence curve: loss over iterations, one color per level of detail, painted into a label."""

import qt

COLORS = ("#4e9de0", "#e0914e", "#5fb36a", "#b07cc6", "#d06a6a")
MARGIN = 6


def levels(points):
    """Split (stage, level, iteration, loss) rows into runs of one stage and level: [(name, [loss, ...]), ...]."""
    runs = []
    for stage, level, _iteration, loss in points:
        if loss is None:
            continue
        name = (stage, level)
        if not runs or runs[-1][0] != name:
            runs.append((name, []))
        runs[-1][1].append(float(loss))
    return runs


def polyline(losses, left, right, top, bottom):
    """Pixel positions of a run, its own range filling the height: levels measure on different grids.

    Longer runs than there are pixels keep the lowest loss per pixel column.
    """
    count = max(int(right - left), 1)
    step = max(len(losses) / count, 1.0)
    kept, start = [], 0.0
    while start < len(losses):
        kept.append(min(losses[int(start) : max(int(start + step), int(start) + 1)]))
        start += step
    low, high = min(kept), max(kept)
    span = (high - low) or 1.0
    width = max(len(kept) - 1, 1)
    return [
        (int(left + (right - left) * i / width), int(bottom - (bottom - top) * (value - low) / span))
        for i, value in enumerate(kept)
    ]


def paint(label, points):
    """Draw the curve into a QLabel; an empty list clears it."""
    width, height = max(label.width, 60), max(label.height, 40)
    pixmap = qt.QPixmap(width, height)
    pixmap.fill(label.palette.color(qt.QPalette.Base))
    painter = qt.QPainter()
    painter.begin(pixmap)
    try:
        runs = levels(points)
        total = sum(len(losses) for _name, losses in runs)
        left = float(MARGIN)
        for index, (name, losses) in enumerate(runs):
            right = left + (width - 2 * MARGIN) * len(losses) / total
            _paintRun(painter, qt.QColor(COLORS[index % len(COLORS)]), name, losses, left, right, height)
            left = right
    finally:
        painter.end()
    label.setPixmap(pixmap)


def _paintRun(painter, color, name, losses, left, right, height):
    pen = qt.QPen(color)
    pen.setWidth(2)
    painter.setPen(pen)
    places = polyline(losses, left, right, MARGIN + 14, height - MARGIN)
    for (x0, y0), (x1, y1) in zip(places, places[1:]):
        painter.drawLine(x0, y0, x1, y1)
    if len(places) == 1:
        painter.drawPoint(*places[0])
    caption = f"{name[0]} {name[1] + 1}"
    if right - left > 7 * len(caption):
        painter.drawText(int(left) + 2, MARGIN + 9, caption)

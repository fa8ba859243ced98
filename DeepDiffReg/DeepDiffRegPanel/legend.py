"""Color legends of the layers, painted into a label: the view's own legend is not available everywhere."""

import qt

ROW = 30
BAR = 10


def paint(label, legends):
    """One row per legend: title, then a bar with the values below it. No legend takes no room."""
    height = ROW * len(legends)
    label.setFixedHeight(height)
    if not legends:
        label.setPixmap(qt.QPixmap())
        return
    width = max(label.width, 200)
    pixmap = qt.QPixmap(width, height)
    pixmap.fill(label.palette.color(qt.QPalette.Window))
    painter = qt.QPainter()
    painter.begin(pixmap)
    try:
        text = label.palette.color(qt.QPalette.WindowText)
        for number, legend in enumerate(legends):
            _row(painter, legend, text, number * ROW, width)
    finally:
        painter.end()
    label.setPixmap(pixmap)


def _row(painter, legend, text, top, width):
    painter.setPen(qt.QPen(text))
    painter.drawText(2, top + 12, legend.title)
    left, count = width // 3, len(legend.lines)
    step = (width - left) / max(count, 1)
    for i, (_value, color, caption) in enumerate(legend.lines):
        x = int(left + i * step)
        fill = qt.QColor(*(int(255 * c) for c in color))
        painter.fillRect(x, top + 2, int(step) + 1, BAR, fill)
        painter.drawText(x + 2, top + BAR + 14, caption)

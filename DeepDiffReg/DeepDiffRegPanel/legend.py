"""Color legends of the layers, painted into a label: the view's own legend is not available everywhere."""

import qt

ROW = 42
TITLE = 14
BAR = 10


def paint(label, legends):
    """One row per legend: the title, below it a bar, and the values below that. No legend takes no room."""
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
    painter.drawText(2, top + TITLE - 3, legend.title)
    step = width / max(len(legend.lines), 1)
    for i, (_value, color, caption) in enumerate(legend.lines):
        left = int(i * step)
        painter.fillRect(left, top + TITLE, int(step) + 1, BAR, qt.QColor(*(int(255 * c) for c in color)))
        painter.drawText(left + 2, top + TITLE + BAR + 13, caption)

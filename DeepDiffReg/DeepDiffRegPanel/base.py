"""What the sections share: the base class, tables with colored cells, combo boxes filled from a registry."""

import qt
import slicer
from slicer.util import VTKObservationMixin

VERDICT_COLORS = {"good": "#2e7d32", "check": "#b26a00", "bad": "#b71c1c", "info": ""}
"""Cell backgrounds, dark enough for white text in both of Slicer's themes."""


class Section(VTKObservationMixin):
    """One collapsible section. Reads and writes its own widgets; the panel tells it what happened."""

    def __init__(self, panel):
        VTKObservationMixin.__init__(self)
        self.panel = panel
        self.ui = panel.ui
        self.setup()

    @property
    def state(self):
        """The typed state, or None while the scene closes."""
        return self.panel.state

    @property
    def logic(self):
        return self.panel.logic

    def setup(self):
        """Connect the widgets; called once."""

    def bind(self):
        """The state is another one (or None): look at everything anew."""
        self.refresh()

    def refresh(self):
        """The state was modified: show it. Cheap, called often."""

    def onEvent(self, event):
        """Something came from the worker."""

    def close(self):
        """Forget every observer."""
        self.removeObservers()


def fillChoices(combo, rows, first=None):
    """Items of a combo box from (name, help) rows; ``first``: (text, tooltip) of an item whose value is empty."""
    blocked = combo.blockSignals(True)
    combo.clear()
    entries = [("", *first)] if first else []
    entries += [(name, name, text) for name, text in rows]
    for index, (value, text, tip) in enumerate(entries):
        combo.addItem(text, value)
        combo.setItemData(index, tip, qt.Qt.ToolTipRole)
    combo.blockSignals(blocked)


def chooseValue(combo, value):
    """Select the item with this value; a value that is not in the list is added, so that nothing saved is lost."""
    index = combo.findData(value)
    if index < 0:
        combo.addItem(value, value)
        index = combo.findData(value)
    if combo.currentIndex != index:
        blocked = combo.blockSignals(True)
        combo.setCurrentIndex(index)
        combo.blockSignals(blocked)
    combo.setToolTip(combo.itemData(index, qt.Qt.ToolTipRole) or "")


def chosenValue(combo):
    """Value of the current item."""
    return combo.itemData(combo.currentIndex) or ""


def setUpTable(table, titles, stretch=0):
    """Column titles; column ``stretch`` takes the room that is left, the others what they need."""
    table.setColumnCount(len(titles))
    table.setHorizontalHeaderLabels(titles)
    header = table.horizontalHeader()
    for column in range(len(titles)):
        mode = qt.QHeaderView.Stretch if column == stretch else qt.QHeaderView.ResizeToContents
        header.setSectionResizeMode(column, mode)
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(22)


def fitRows(table, most=6, least=1):
    """Make the table as high as its rows, at least ``least`` and at most ``most`` of them."""
    rows = min(max(table.rowCount, least), most)
    row = table.verticalHeader().defaultSectionSize
    table.setFixedHeight(table.horizontalHeader().height + rows * row + 2 * table.frameWidth + 2)


def cell(table, row, column, text, tip="", color=""):
    """Write one cell; ``color`` paints it, with white text."""
    item = table.item(row, column)
    if item is None:
        item = qt.QTableWidgetItem()
        table.setItem(row, column, item)
    if item.text() != text:
        item.setText(text)
    item.setToolTip(tip or text)
    if color:
        item.setBackground(qt.QBrush(qt.QColor(color)))
        item.setForeground(qt.QBrush(qt.QColor("#ffffff")))
    else:
        item.setData(qt.Qt.BackgroundRole, None)
        item.setData(qt.Qt.ForegroundRole, None)
    return item


def selectedRows(table):
    """Sorted numbers of the selected rows."""
    return sorted({index.row() for index in table.selectionModel().selectedRows()})


def number(value, digits=3):
    """A number for a table: three significant digits, a dash for none."""
    if value is None:
        return "-"
    value = float(value)
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"


def showStatus(text):
    """One line in Slicer's status bar."""
    slicer.util.showStatusMessage(text, 4000)

"""Set-up: what is installed, installing on the user's word only, the worker, removing what was stored."""

import slicer
from DeepDiffRegWork import packages
from slicer.i18n import tr as _

from . import base

STATES = {
    "stopped": _("not started"),
    "starting": _("starting"),
    "ready": _("ready"),
    "busy": _("working"),
    "cancelling": _("cancelling"),
    "crashed": _("ended unexpectedly"),
}


class SetupSection(base.Section):
    def setup(self):
        base.setUpTable(self.ui.packagesTable, [_("Package"), _("Installed"), _("Needed")])
        self._workerState = None
        self._filled = False
        self.ui.installButton.connect("clicked(bool)", self.onInstall)
        self.ui.restartWorkerButton.connect("clicked(bool)", self.onRestart)
        self.ui.removeDownloadsButton.connect("clicked(bool)", self.onRemove)

    def bind(self):
        self._fill()

    def tick(self):
        state = self.logic.workerState
        if state != self._workerState:
            self._workerState = state
            pid = self.logic.workerPid
            text = STATES.get(state, state)
            self.ui.workerLabel.setText(
                _("Worker: {state} (process {pid})").format(state=text, pid=pid)
                if pid
                else _("Worker: {state}").format(state=text)
            )
            self.ui.restartWorkerButton.setEnabled(state not in ("stopped", "starting"))

    def onInstall(self, _checked=False):
        """Install what is missing, after asking."""
        names = packages.missing()
        text = _("Install {names} into Slicer's Python? This downloads files from the Internet (torch: up to 3 GB).")
        if not slicer.util.confirmOkCancelDisplay(text.format(names=", ".join(names))):
            return
        with slicer.util.tryWithErrorDisplay(_("The packages could not be installed."), waitCursor=True):
            packages.install()
        self._fill()
        self.panel.refresh()

    def onRestart(self, _checked=False):
        """A new worker; the map stays in the scene."""
        with slicer.util.tryWithErrorDisplay(_("The worker could not be started."), waitCursor=True):
            self.logic.restartWorker()
        self.panel.refresh()

    def onRemove(self, _checked=False):
        """Delete the files that the module has stored."""
        packages.removeDownloads()
        self._fill()

    def _fill(self):
        packages.missing.cache_clear()
        table, rows, missing = self.ui.packagesTable, packages.listing(), packages.missing()
        table.setRowCount(len(rows))
        for row, (name, version, needed) in enumerate(rows):
            base.cell(table, row, 0, name)
            color = base.VERDICT_COLORS["bad"] if name in missing else ""
            base.cell(table, row, 1, version or _("missing"), "", color)
            base.cell(table, row, 2, needed)
        base.fitRows(table, len(rows))
        self.ui.installButton.setEnabled(bool(missing))
        self.ui.setupLabel.setText(
            _("Missing: {names}.").format(names=", ".join(missing)) if missing else _("Everything needed is installed.")
        )
        size = packages.downloadsSizeMb()
        self.ui.removeDownloadsButton.setEnabled(size > 0)
        self.ui.removeDownloadsButton.setText(
            _("Remove downloaded and generated files ({size:.1f} MB)").format(size=size)
        )

"""Inputs: which volumes, which preset, what to change in it. Lists come from the library's registries."""

from slicer.i18n import tr as _

from . import base


class InputsSection(base.Section):
    def setup(self):
        from DeepDiffRegLib.config import load_preset, preset_names
        from DeepDiffRegLib.methods import METHODS
        from DeepDiffRegLib.similarity import SIMILARITIES
        from DeepDiffRegLib.transforms import TRANSFORMS

        self.presets = {name: load_preset(name) for name in preset_names()}
        base.fillChoices(self.ui.presetCombo, [(name, preset.help) for name, preset in self.presets.items()])
        same = (_("as the preset"), _("What the preset says."))
        self.combos = {"preset": self.ui.presetCombo}
        for parameter, combo, registry in (
            ("method", self.ui.methodCombo, METHODS),
            ("transformModel", self.ui.transformCombo, TRANSFORMS),
            ("similarity", self.ui.similarityCombo, SIMILARITIES),
        ):
            base.fillChoices(combo, [(entry.name, entry.help) for entry in registry.values()], same)
            self.combos[parameter] = combo
        self.combos["device"] = self.ui.deviceCombo
        self.ui.modelFileEdit.connect("currentPathChanged(QString)", self._onModelFile)
        self._fillDevices([])
        for parameter, combo in self.combos.items():
            combo.connect("currentIndexChanged(int)", lambda _index, name=parameter: self._onChosen(name))

    def _onChosen(self, parameter):
        if self.state is not None:
            setattr(self.state, parameter, base.chosenValue(self.combos[parameter]))

    def _onModelFile(self, path):
        if self.state is not None and self.state.modelFile != path:
            self.state.modelFile = path

    def _fillDevices(self, devices):
        rows = [("auto", _("the first graphics card, else the processor")), ("cpu", _("the processor"))]
        rows += [(d["name"], d.get("label", "")) for d in devices if d["name"] not in ("auto", "cpu")]
        base.fillChoices(self.ui.deviceCombo, rows)

    def onEvent(self, event):
        if event.kind == "ready":
            self._fillDevices(event.data["devices"])
            self.refresh()

    def refresh(self):
        state = self.state
        if state is None:
            return
        for parameter, combo in self.combos.items():
            base.chooseValue(combo, getattr(state, parameter))
        if self.ui.modelFileEdit.currentPath != state.modelFile:
            self.ui.modelFileEdit.setCurrentPath(state.modelFile)
        preset = self.presets.get(state.preset)
        self.ui.presetHelpLabel.setText(preset.help if preset else _("This preset is not installed here."))

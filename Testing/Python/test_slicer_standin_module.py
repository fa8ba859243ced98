"""The stand-in of Slicer runs a scripted module: panel, state, scene, reload. The module is written by the test."""

from __future__ import annotations

import sys
from textwrap import dedent

import numpy as np
import pytest

MODULE = dedent(
    """
    import enum
    import pathlib
    from typing import Annotated, Optional

    import slicer
    import vtk
    from slicer import vtkMRMLScalarVolumeNode
    from slicer.i18n import tr as _
    from slicer.parameterNodeWrapper import Minimum, WithinRange, parameterNodeWrapper, parameterPack
    from slicer.ScriptedLoadableModule import (
        ScriptedLoadableModule,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
        ScriptedLoadableModuleWidget,
    )
    from slicer.util import VTKObservationMixin


    class Quality(enum.Enum):
        FAST = 1
        FINE = 2

        def label(self):
            return {Quality.FAST: _("in a hurry"), Quality.FINE: _("with care")}[self]


    class StandInExample(ScriptedLoadableModule):
        def __init__(self, parent):
            ScriptedLoadableModule.__init__(self, parent)
            parent.title = _("Example")
            parent.contributors = ["Nobody"]


    @parameterPack
    class Box:
        low: float = 1.0
        high: float = 2.0


    @parameterNodeWrapper
    class StandInExampleState:
        volume: vtkMRMLScalarVolumeNode
        quality: Quality = Quality.FINE
        live: bool = True
        spacing: Annotated[float, WithinRange(1.0, 20.0)] = 5.0
        name: str = "a"
        folder: pathlib.Path
        pairs: list[tuple[str, str, float]]
        names: dict[str, str]
        box: Box
        limit: Optional[int]
        count: Annotated[int, Minimum(1)] = 3


    class StandInExampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
        def __init__(self, parent=None):
            ScriptedLoadableModuleWidget.__init__(self, parent)
            VTKObservationMixin.__init__(self)
            self.state = None
            self.tag = None
            self.applied = []

        def setup(self):
            ScriptedLoadableModuleWidget.setup(self)
            widget = slicer.util.loadUI(self.resourcePath("UI/StandInExample.ui"))
            self.layout.addWidget(widget)
            self.ui = slicer.util.childWidgetVariables(widget)
            widget.setMRMLScene(slicer.mrmlScene)
            self.logic = StandInExampleLogic()
            self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
            self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
            self.ui.applyButton.connect("clicked(bool)", self.onApply)
            self.bind()

        def bind(self):
            self.release()
            self.state = self.logic.getParameterNode()
            self.addObserver(self.state, vtk.vtkCommand.ModifiedEvent, self.onModified)
            self.tag = self.state.connectGui(self.ui)
            self.onModified()

        def release(self):
            if self.state is not None:
                self.state.disconnectGui(self.tag)
                self.removeObserver(self.state, vtk.vtkCommand.ModifiedEvent, self.onModified)
            self.state = None

        def onModified(self, caller=None, event=None):
            self.ui.applyButton.enabled = self.state.volume is not None

        def enter(self):
            self.bind()

        def exit(self):
            self.release()

        def cleanup(self):
            self.release()
            self.removeObservers()

        def onSceneStartClose(self, caller, event):
            self.release()

        def onSceneEndClose(self, caller, event):
            if self.parent.isEntered:
                self.bind()

        def onApply(self):
            with slicer.util.tryWithErrorDisplay(_("Failed."), waitCursor=True):
                self.applied.append(self.logic.half(self.state.volume))


    class StandInExampleLogic(ScriptedLoadableModuleLogic):
        def getParameterNode(self):
            return StandInExampleState(super().getParameterNode())

        def half(self, volume):
            if volume.GetImageData() is None:
                raise ValueError("no image")
            return 0.5 * slicer.util.arrayFromVolume(volume)


    class StandInExampleTest(ScriptedLoadableModuleTest):
        def runTest(self):
            self.delayDisplay("ran")
    """
)


def _widget(kind: str, name: str, properties: str = "", parameter: str = "") -> str:
    bound = (
        f'<property name="SlicerParameterName" stdset="0"><string>{parameter}</string></property>' if parameter else ""
    )
    return f'<item><widget class="{kind}" name="{name}">{properties}{bound}</widget></item>'


def ui_text(extra: str = "") -> str:
    """A panel with one bound widget of each common kind."""
    rows = (
        _widget(
            "qMRMLNodeComboBox",
            "volumeSelector",
            '<property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>'
            '<property name="hideChildNodeTypes"><stringlist><string>vtkMRMLLabelMapVolumeNode</string></stringlist></property>'
            '<property name="noneEnabled"><bool>true</bool></property>',
            "volume",
        )
        + _widget("QComboBox", "quality", parameter="quality")
        + _widget("QCheckBox", "live", parameter="live")
        + _widget("ctkSliderWidget", "spacing", '<property name="suffix"><string> mm</string></property>', "spacing")
        + _widget("QLineEdit", "nameEdit", parameter="name")
        + _widget(
            "ctkPathLineEdit",
            "folder",
            '<property name="filters"><set>ctkPathLineEdit::Dirs|ctkPathLineEdit::Hidden</set></property>',
            "folder",
        )
        + _widget("QDoubleSpinBox", "boxHigh", parameter="box.high")
        + _widget("QSpinBox", "count", parameter="count")
        + extra
        + _widget("QPushButton", "applyButton", '<property name="text"><string>Apply</string></property>')
    )
    custom = "".join(
        f"<customwidget><class>{name}</class><extends>QWidget</extends><header>{name}.h</header></customwidget>"
        for name in (
            "qMRMLWidget",
            "qMRMLNodeComboBox",
            "ctkSliderWidget",
            "ctkPathLineEdit",
            "qMRMLSegmentSelectorWidget",
        )
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ui version="4.0"><class>StandInExample</class>'
        f'<widget class="qMRMLWidget" name="StandInExample"><layout class="QVBoxLayout" name="column">{rows}</layout></widget>'
        f"<customwidgets>{custom}</customwidgets><connections><connection><sender>StandInExample</sender>"
        "<signal>mrmlSceneChanged(vtkMRMLScene*)</signal><receiver>volumeSelector</receiver>"
        "<slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"
    )


@pytest.fixture
def module_file(tmp_path):
    """The example module on disk."""
    folder = tmp_path / "StandInExample"
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "StandInExample.py").write_text(MODULE, encoding="utf-8")
    (folder / "Resources" / "UI" / "StandInExample.ui").write_text(ui_text(), encoding="utf-8")
    return folder / "StandInExample.py"


@pytest.fixture
def panel(slicer_app, module_file):
    """The opened panel of the example module."""
    slicer_app.load_module(module_file)
    return slicer_app.select_module("StandInExample")


def add_volume(name: str, value: float = 1.0):
    import slicer

    return slicer.util.addVolumeFromArray(np.full((4, 5, 6), value), name=name)


def test_the_panel_shows_the_defaults(panel):
    assert panel.ui.quality.currentText == "with care"
    assert [panel.ui.quality.itemText(index) for index in range(panel.ui.quality.count)] == ["in a hurry", "with care"]
    assert panel.ui.live.checked
    assert (panel.ui.spacing.value, panel.ui.spacing.minimum, panel.ui.spacing.maximum) == (5.0, 1.0, 20.0)
    assert panel.ui.nameEdit.text == "a"
    assert panel.ui.folder.filters == 0x101
    assert panel.ui.boxHigh.value == 2.0
    assert (panel.ui.count.value, panel.ui.count.minimum) == (3, 1)
    assert panel.ui.volumeSelector.currentNode() is None
    assert not panel.ui.applyButton.enabled


def test_state_and_widgets_follow_each_other(panel, tmp_path):
    first, second = add_volume("first"), add_volume("second")
    panel.ui.volumeSelector.setCurrentNode(first)
    assert panel.state.volume is first
    assert panel.ui.applyButton.enabled
    panel.state.volume = second
    assert panel.ui.volumeSelector.currentNode() is second
    assert panel.ui.volumeSelector.currentText == "second"
    panel.ui.quality.currentIndex = 0
    assert panel.state.quality.name == "FAST"
    panel.ui.live.checked = False
    assert panel.state.live is False
    panel.ui.spacing.value = 7.25
    assert panel.state.spacing == 7.25
    panel.state.spacing = 3.0
    assert panel.ui.spacing.value == 3.0
    panel.ui.nameEdit.text = "b"
    assert panel.state.name == "b"
    panel.ui.folder.currentPath = str(tmp_path)
    assert panel.state.folder == tmp_path
    panel.ui.boxHigh.value = 4.5
    assert (panel.state.box.low, panel.state.box.high) == (1.0, 4.5)
    panel.state.box.high = 8.0
    assert panel.ui.boxHigh.value == 8.0


def test_a_click_runs_the_logic_and_errors_are_recorded(slicer_app, panel):
    import slicer
    from slicer_standin import gestures

    gestures.click(panel.ui.applyButton)
    assert panel.applied == [], "a disabled button must not react"
    panel.state.volume = add_volume("scan", 4.0)
    gestures.click(panel.ui.applyButton)
    assert len(panel.applied) == 1 and float(panel.applied[0].mean()) == 2.0
    panel.state.volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    slicer_app.testing = False
    gestures.click(panel.ui.applyButton)
    assert [message.kind for message in slicer_app.messages] == ["error"]
    assert "no image" in slicer_app.messages[0].text
    assert len(slicer_app.errors) == 1 and "ValueError: no image" in slicer_app.errors[0]
    slicer_app.errors.clear()


def test_validators_refuse_bad_values(panel):
    for name, value in (("spacing", 0.5), ("count", 0), ("name", 3), ("live", None)):
        with pytest.raises((ValueError, TypeError)):
            setattr(panel.state, name, value)
    assert (panel.state.spacing, panel.state.count, panel.state.name, panel.state.live) == (5.0, 3, "a", True)


@pytest.mark.parametrize("extension", ["mrml", "mrb"])
def test_a_saved_scene_restores_the_state(slicer_app, panel, tmp_path, extension):
    import slicer

    volume = add_volume("kept")
    panel.state.volume = volume
    panel.state.quality = type(panel.state.quality).FAST
    panel.state.pairs = [("a", "b", 1.0)]
    panel.state.pairs.append(("c;d", "<&>", 2.5))
    panel.state.names = {"x": "y"}
    panel.state.names["z"] = "100 % sure"
    panel.state.limit = 12
    panel.state.box.low = -1.5
    if extension == "mrml":
        assert slicer.util.saveNode(volume, str(tmp_path / "kept.nrrd"))
    file = str(tmp_path / f"scene.{extension}")
    assert slicer.util.saveScene(file)
    slicer.mrmlScene.Clear(0)
    assert panel.state.volume is None and panel.state.pairs == [] and panel.state.limit is None
    slicer.util.loadScene(file)
    panel.bind()
    assert panel.state.volume.GetName() == "kept"
    assert panel.ui.volumeSelector.currentNode() is panel.state.volume
    assert panel.state.quality.name == "FAST" and panel.ui.quality.currentText == "in a hurry"
    assert panel.state.pairs == [("a", "b", 1.0), ("c;d", "<&>", 2.5)]
    assert panel.state.names == {"x": "y", "z": "100 % sure"}
    assert (panel.state.limit, panel.state.box.low) == (12, -1.5)


def test_closing_the_scene_releases_and_rebinds(panel):
    import slicer

    panel.state.volume = add_volume("gone")
    panel.ui.spacing.value = 9.0
    before = panel.state
    slicer.mrmlScene.Clear(0)
    assert panel.state is not before
    assert panel.ui.volumeSelector.nodeCount() == 0
    assert panel.ui.spacing.value == 5.0
    slicer.util.selectModule("")
    slicer.mrmlScene.Clear(0)
    assert panel.state is None, "a module that is not open must not make a parameter node"


def test_a_deleted_node_leaves_the_state(panel):
    import slicer

    volume = add_volume("deleted")
    panel.state.volume = volume
    slicer.mrmlScene.RemoveNode(volume)
    assert panel.state.volume is None
    assert panel.ui.volumeSelector.currentNode() is None
    assert not panel.ui.applyButton.enabled


def test_reload_gives_a_new_panel_and_keeps_the_state(slicer_app, panel):
    import slicer

    panel.state.spacing = 11.0
    panel.onReload()
    new = slicer.modules.StandInExampleWidget
    assert new is not panel
    assert panel.Observations == [] and panel.state is None
    assert new.ui.spacing.value == 11.0
    assert new.parent.isEntered
    assert slicer.util.getModuleWidget("StandInExample") is new
    assert slicer.util.getModuleLogic("StandInExample") is new.logic


def test_a_widget_that_slicer_cannot_bind_raises(slicer_app, module_file):
    extra = _widget("qMRMLSegmentSelectorWidget", "segment", parameter="volume2")
    text = MODULE.replace(
        "volume: vtkMRMLScalarVolumeNode", "volume: vtkMRMLScalarVolumeNode\n    volume2: vtkMRMLScalarVolumeNode"
    )
    module_file.write_text(text, encoding="utf-8")
    (module_file.parent / "Resources" / "UI" / "StandInExample.ui").write_text(ui_text(extra), encoding="utf-8")
    slicer_app.load_module(module_file)
    with pytest.raises(RuntimeError, match="qMRMLSegmentSelectorWidget"):
        slicer_app.select_module("StandInExample")


def test_a_derived_class_is_not_the_exact_class(slicer_app):
    import qt
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    class State:
        pass

    State.__annotations__ = {"on": bool, "amount": float}
    State = parameterNodeWrapper(State)
    state = State(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))

    class MyBox(qt.QCheckBox):
        pass

    with pytest.raises(RuntimeError, match="MyBox"):
        state.connectParametersToGui({"on": MyBox()})
    with pytest.raises(RuntimeError, match="QPushButton"):
        state.connectParametersToGui({"on": qt.QPushButton()})
    button = qt.QPushButton()
    button.checkable = True
    tag = state.connectParametersToGui({"on": button})
    button.click()
    assert state.on is True
    state.disconnectGui(tag)
    button.click()
    assert state.on is True
    import ctk

    with pytest.raises(RuntimeError, match="bounds"):
        state.connectParametersToGui({"amount": ctk.ctkSliderWidget()})


def test_wrapper_refuses_what_a_released_slicer_may_not_read(slicer_app):
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    for hint, message in (("int", "must be an object"), (int | None, "Optional"), (complex, "no serializer")):
        state = type("State", (), {"__annotations__": {"value": hint}})
        with pytest.raises(TypeError, match=message):
            parameterNodeWrapper(state)
    from typing import Union

    kinds = (slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLLabelMapVolumeNode)
    state = parameterNodeWrapper(
        type("State", (), {"__annotations__": {"open": Union[(*kinds, None)], "shut": Union[kinds]}})  # noqa: UP007
    )
    values = state(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    values.open = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    values.open = None
    assert values.open is None
    with pytest.raises(ValueError, match="None"):
        values.shut = None
    with pytest.raises(TypeError):
        values.open = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")


def test_modules_and_slicer_are_restored(slicer_app, module_file):
    import slicer

    before = list(sys.path)
    slicer_app.load_module(module_file)
    slicer_app.select_module("StandInExample")
    slicer_app.uninstall()
    try:
        assert not {"qt", "ctk", "StandInExample", "slicer.parameterNodeWrapper", "SampleData"} & set(sys.modules)
        assert not hasattr(slicer, "app") and not hasattr(slicer, "mrmlScene")
        assert str(module_file.parent) not in sys.path and len(sys.path) <= len(before)
    finally:
        slicer_app.activate()
    assert slicer.util.getNodesByClass("vtkMRMLSliceNode"), "the second installation works as the first"

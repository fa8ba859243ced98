"""The stand-in's qt and ctk modules behave as PythonQt's: attributes, connect by signature, custom widgets."""

from __future__ import annotations

import pytest


@pytest.fixture
def qt(slicer_app):
    """The module qt."""
    return slicer_app.qt


@pytest.fixture
def ctk(slicer_app):
    """The module ctk."""
    return slicer_app.ctk


def test_properties_are_attributes(qt):
    button = qt.QPushButton("text")
    assert (button.text, button.enabled, button.checkable) == ("text", True, False)
    button.text, button.checkable, button.checked = "other", True, True
    assert (button.text, button.checked) == ("other", True)
    table = qt.QTableWidget()
    table.rowCount, table.columnCount = 3, 2
    header = table.horizontalHeader()
    header.stretchLastSection = True
    assert (table.rowCount, table.columnCount, header.stretchLastSection) == (3, 2, True)
    table.setItem(0, 1, qt.QTableWidgetItem("cell"))
    assert table.item(0, 1).text() == "cell"
    label = qt.QLabel()
    label.alignment = 0x84  # PythonQt takes numbers for flags
    assert label.alignment == qt.Qt.AlignCenter
    assert label.property("sizeHint").width() >= 0


def test_a_misspelled_attribute_raises_but_not_in_an_own_class(qt):
    box = qt.QSpinBox()
    with pytest.raises(AttributeError, match="valeu"):
        box.valeu = 3

    class Mine(qt.QWidget):
        def __init__(self):
            super().__init__()
            self.extra = 1

    assert Mine().extra == 1


def test_connect_by_signature(qt):
    box, button, seen = qt.QSpinBox(), qt.QPushButton(), []
    assert box.connect("valueChanged(int)", seen.append)
    box.value = 4
    button.connect("clicked(bool)", lambda: seen.append("clicked"))
    button.clicked.connect(lambda on: seen.append(on))
    button.click()
    assert seen == [4, "clicked", False]
    assert box.disconnect("valueChanged(int)", seen.append)
    box.value = 5
    assert seen == [4, "clicked", False]
    assert not box.disconnect("valueChanged(int)", print)
    with pytest.raises(ValueError, match=r"valueChanged\(int\)"):
        box.connect("valueChanged(double)", print)


def test_classes_form_qt_s_tree(qt):
    widget = qt.QWidget()
    column = qt.QVBoxLayout(widget)
    button = qt.QPushButton("ok")
    button.objectName = "okButton"
    column.addWidget(button)
    assert (
        isinstance(button, qt.QAbstractButton) and isinstance(button, qt.QWidget) and not isinstance(button, qt.QLabel)
    )
    assert isinstance(widget.layout(), qt.QVBoxLayout)
    assert button.className() == "QPushButton" and button.name == "okButton"
    assert widget.findChildren("QPushButton") == [button] and widget.findChild(qt.QWidget, "okButton") is button
    assert button.parent() is widget and button in widget.children()


def test_timer_static_and_property_of_one_name(slicer_app, qt):
    from slicer_standin import gestures

    seen = []
    timer = qt.QTimer()
    timer.singleShot, timer.interval = True, 1
    timer.connect("timeout()", lambda: seen.append("timer"))
    timer.start()
    qt.QTimer.singleShot(1, lambda: seen.append("static"))
    assert gestures.wait_until(lambda: len(seen) == 2)
    assert sorted(seen) == ["static", "timer"]


def test_many_calls_that_return_nothing(slicer_app, qt):
    """Some PySide6 releases lose a reference to None at each such call and abort the process."""
    import sys

    label = qt.QLabel()
    before = sys.getrefcount(None)
    for _ in range(2000):
        label.setText("x")
        slicer_app.app.processEvents()
    assert sys.getrefcount(None) > before - 500


def test_settings_stay_in_the_test(qt):
    import slicer

    settings = qt.QSettings()
    assert not settings.contains("DeepDiffReg/answer")
    settings.setValue("DeepDiffReg/answer", True)
    assert qt.QSettings().value("DeepDiffReg/answer") is True
    assert slicer.util.settingsValue("DeepDiffReg/answer", False, converter=slicer.util.toBool) is True
    assert slicer.app.userSettings().value("DeepDiffReg/answer") is True


def test_shortcuts(slicer_app, qt):
    import slicer
    from slicer_standin import gestures

    seen = []
    shortcut = qt.QShortcut(qt.QKeySequence("Ctrl+Alt+P"), slicer.util.mainWindow())
    shortcut.connect("activated()", lambda: seen.append(1))
    assert gestures.press("Ctrl+Alt+P") and seen == [1]
    shortcut.enabled = False
    assert not gestures.press("Ctrl+Alt+P") and seen == [1]
    shortcut.setParent(None)


def test_collapsible_button_hides_its_content(ctk, qt):
    section = ctk.ctkCollapsibleButton()
    section.text = "Inputs"
    column = qt.QVBoxLayout(section)
    shown, hidden = qt.QLabel("a"), qt.QLabel("b")
    column.addWidget(shown)
    column.addWidget(hidden)
    hidden.setVisible(False)
    seen = []
    section.connect("contentsCollapsed(bool)", seen.append)
    section.show()
    section.collapsed = True
    assert not shown.isVisible() and section.property("collapsed") is True
    late = qt.QLabel("c")
    column.addWidget(late)
    assert not late.isVisible()
    section.collapsed = False
    assert shown.isVisible() and not hidden.isVisible()
    assert seen == [True, False]


def test_slider_clamps_rounds_and_tells_once(ctk):
    slider, seen = ctk.ctkSliderWidget(), []
    slider.connect("valueChanged(double)", seen.append)
    slider.minimum, slider.maximum, slider.decimals = 1.0, 10.0, 1
    slider.value = 3.14159
    slider.value = 3.1
    slider.value = 99.0
    assert seen == [1.0, 3.1, 10.0]
    slider.spinBox().value = 5.5
    assert slider.value == 5.5
    slider.maximum = 4.0
    assert slider.value == 4.0 and slider.slider().value == 1000


def test_range_keeps_order(ctk):
    bounds, seen = ctk.ctkRangeWidget(), []
    bounds.connect("valuesChanged(double,double)", lambda low, high: seen.append((low, high)))
    bounds.setRange(0.0, 10.0)
    bounds.setValues(2.0, 8.0)
    bounds.minimumValue = 9.0
    assert (bounds.minimumValue, bounds.maximumValue) == (9.0, 9.0)
    assert seen[-2:] == [(2.0, 8.0), (9.0, 9.0)]


def test_path_edit_and_checkable_button(ctk, tmp_path):
    edit, seen = ctk.ctkPathLineEdit(), []
    edit.connect("currentPathChanged(QString)", seen.append)
    edit.currentPath = str(tmp_path)
    assert edit.currentPath == str(tmp_path) and seen == [str(tmp_path)]
    button = ctk.ctkCheckablePushButton()
    button.connect("checkBoxToggled(bool)", seen.append)
    button.setCheckState(2)
    assert button.checked and seen[-1] is True


def test_messages_are_recorded_and_answered(slicer_app):
    import slicer

    slicer.util.infoDisplay("done")  # testing mode: only logged
    slicer_app.testing = False
    slicer_app.answers += [False, True]
    assert not slicer.util.confirmYesNoDisplay("delete?")
    assert slicer.util.confirmOkCancelDisplay("delete now?")
    slicer.util.errorDisplay("broken")
    assert [(item.kind, item.text) for item in slicer_app.messages] == [
        ("info", "done"),
        ("info", "delete?"),
        ("info", "delete now?"),
        ("error", "broken"),
    ]


def test_packages_are_checked_but_never_installed(slicer_app):
    import PyTorchUtils
    import slicer.packaging

    assert slicer.packaging.pip_check("numpy>=1")
    assert not slicer.packaging.pip_check("numpy<1")
    slicer_app.packaging.missing.add("numpy")
    assert not slicer.packaging.pip_check("numpy>=1")
    slicer.packaging.pip_ensure("numpy>=1", requester="test")
    assert [entry[0] for entry in slicer_app.pip_log] == ["pip_ensure"], "nothing is installed in testing mode"
    slicer_app.testing = False
    slicer.packaging.pip_ensure("numpy>=1", requester="test")
    assert slicer.packaging.pip_check("numpy>=1")
    slicer_app.pytorch_utils.installed = False
    logic = PyTorchUtils.PyTorchUtilsLogic()
    logic.installTorch(askConfirmation=True, torchVersionRequirement=">=2.6")
    assert logic.torchInstalled() and slicer_app.pip_log[-1][0] == "installTorch"


def test_sample_data_refuses_unknown_arguments(slicer_app):
    import SampleData

    register = SampleData.SampleDataLogic.registerCustomSampleDataSource
    register(category="DeepDiffReg", sampleName="pair", uris=["u"], fileNames=["f"], checksums=["SHA256:0"])
    assert slicer_app.sample_data.sources["DeepDiffReg"][0].sampleName == "pair"
    with pytest.raises(TypeError):
        register(category="DeepDiffReg", name="pair")

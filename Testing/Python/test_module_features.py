"""Learned features in the panel: a run with a model of its own, its pictures as a layer, asked for when they are looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from panel_bed import case, settle, widget  # noqa: F401 - fixtures

from DeepDiffRegLib.networks import FEATURES
from DeepDiffRegLib.networks.weights import ModelCard, save_model


@pytest.fixture
def model(tmp_path) -> str:
    torch.manual_seed(0)
    kind, path = FEATURES.load("unet-e"), tmp_path / "net.safetensors"
    save_model(path, kind(kind.variant("light")), ModelCard("unet-e", {}, "none", "generated"))
    return str(path)


def shown(widget):  # noqa: F811
    """The volume in the additional layer of the red view."""
    import slicer
    from DeepDiffRegScene import overlays

    composite = overlays.composites(names=["Red"])[0]
    return slicer.mrmlScene.GetNodeByID(composite.GetNthLayerVolumeID(overlays.FIRST_LAYER) or "")


def test_features_are_shown_asked_once_and_gone_with_the_method(widget, case, model, tmp_path):  # noqa: F811
    import slicer
    from DeepDiffRegPanel import selftest_bed
    from DeepDiffRegPanel.results import ResultsSection
    from DeepDiffRegPanel.state import FeatureSide

    state, ui, logic = selftest_bed.begin(widget), widget.ui, widget.logic
    state.modelFile = model
    assert not ui.featuresLayerButton.enabled
    selftest_bed.run(case, widget)
    assert logic.registration.config["method"] == "dio" and ui.featuresLayerButton.enabled
    assert selftest_bed.correlation(state.fixedVolume, state.outputVolume) > 0.9

    asked = []
    ask = logic.client.features
    logic.client.features = lambda *what: asked.append(what) or ask(*what)
    ui.featuresLayerButton.click()
    assert settle(lambda: state.featuresVolume is not None and shown(widget) is state.featuresVolume)
    colors = slicer.util.arrayFromVolume(state.featuresVolume)
    assert colors.shape == (14, 14, 14, 3) and colors.dtype == np.uint8 and np.ptp(colors) > 100
    assert "all channels" in state.featuresVolume.GetName() and "fixed" in state.featuresVolume.GetName()
    layer = widget.panel.section(ResultsSection)._set["features"]
    assert "alike to the network" in layer.legend.title
    texts = [ui.featureChannelCombo.itemText(i) for i in range(ui.featureChannelCombo.count)]
    assert texts == ["as colors"] + [f"channel {n}" for n in range(1, 9)]
    assert [ui.featureScaleCombo.itemText(i) for i in range(ui.featureScaleCombo.count)] == [
        "finest resolution",
        "12 mm voxels",
    ]

    ui.featureChannelCombo.setCurrentIndex(3)
    ui.featureScaleCombo.setCurrentIndex(1)
    state.featureSide = FeatureSide.WARPED
    assert (state.featureChannel, state.featureScale) == (2, 0)
    assert settle(lambda: shown(widget) is not None and "moving, channel 3, 12 mm" in shown(widget).GetName())
    values = slicer.util.arrayFromVolume(state.featuresVolume)
    assert values.shape == (7, 7, 7) and values.dtype == np.float32
    assert len(layer.legend.lines) == 5
    for _turn in range(3):
        widget.panel.refresh()
    assert len(asked) <= 4 and settle(lambda: not logic.client.busy)
    ui.featuresLayerButton.click()
    assert shown(widget) is None and state.featuresVolume.GetScene() is not None

    state.exportFolder, state.exportFeatures, state.exportReport = str(tmp_path / "out"), True, False
    assert settle(lambda: ui.exportButton.enabled)
    ui.exportButton.click()
    names = [f"features_{side}_{n}.nii.gz" for side in ("fixed", "moving") for n in (1, 2)]
    assert settle(lambda: all((tmp_path / "out" / name).is_file() for name in names))
    assert settle(lambda: not logic.client.busy)

    state.modelFile = ""
    selftest_bed.run(case, widget)
    assert not ui.featuresLayerButton.enabled and "method dio" in ui.featuresLayerButton.statusTip

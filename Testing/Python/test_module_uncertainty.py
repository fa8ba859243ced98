"""A probabilistic network in the panel: its uncertainty comes from the worker as volumes with units, and as a layer."""

from __future__ import annotations

import numpy as np
import pytest
from panel_bed import case, settle, widget  # noqa: F401 - fixtures

from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.weights import ModelCard, save_model

OUTPUTS = ("uncertainty", "jacobianUncertainty", "priorUncertainty", "labelUncertainty")


@pytest.fixture
def model(tmp_path) -> str:
    """A light network that says nothing moves, to within a tenth of its units."""
    kind = NETWORKS.load("voxelmorph-diff")
    network = kind(kind.variant("light")).requires_grad_(False)
    network.log_sigma.weight.zero_()
    network.log_sigma.bias.fill_(float(np.log(0.01)))
    save_model(
        tmp_path / "m.safetensors",
        network,
        ModelCard("voxelmorph-diff", {}, "none", "generated", prior={"precision": 10.0}),
    )
    return str(tmp_path / "m.safetensors")


def test_layer_with_unit_appears_and_goes_with_the_network(widget, case, model):  # noqa: F811
    from DeepDiffRegPanel import selftest_bed
    from DeepDiffRegPanel.results import ResultsSection
    from DeepDiffRegPanel.state import UncertaintyOf

    state, ui, logic = selftest_bed.begin(widget), widget.ui, widget.logic
    state.modelFile, state.transformModel, state.similarity = model, "svf", "mse"
    assert not ui.uncertaintyLayerButton.enabled
    selftest_bed.run(case, widget)
    outputs = logic.registration.outputs
    assert settle(lambda: outputs.priorUncertainty is not None), "the maps of uncertainty follow the judged result"
    assert ui.uncertaintyLayerButton.enabled and ui.uncertaintyCombo.enabled
    assert state.uncertaintyVolume is outputs.uncertainty and outputs.labelUncertainty is None
    findings = {finding["name"]: finding for finding in logic.judged["findings"]}
    assert findings["uncertainty"]["unit"] == "mm" and findings["uncertainty"]["verdict"] == "info"
    ui.uncertaintyLayerButton.click()
    layer = widget.panel.section(ResultsSection)._set["uncertainty"]
    assert layer.visible and layer.unit == "mm" and "(mm)" in layer.legend.title
    state.uncertaintyOf = UncertaintyOf.PRIOR
    assert settle(lambda: layer.options.volume is outputs.priorUncertainty) and layer.unit == "ratio"
    state.uncertaintyOf = UncertaintyOf.LABELS
    assert settle(lambda: layer.legend is None) and "segments" in ui.uncertaintyLayerButton.statusTip
    state.modelFile = ""
    selftest_bed.run(case, widget)
    assert settle(lambda: all(getattr(logic.registration.outputs, name) is None for name in OUTPUTS))
    assert not ui.uncertaintyLayerButton.enabled

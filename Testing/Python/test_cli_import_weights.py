"""The authors' Keras weights give the authors' numbers; other files are refused in one line."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch

from DeepDiffRegLib.cli.main import main
from DeepDiffRegLib.networks.keras_layers import from_keras
from DeepDiffRegLib.networks.weights import load_model

CHANNELS = {
    "voxelmorph1": [(2, 16), (16, 32), (32, 32), (32, 32), (32, 32), (64, 32), (64, 32), (48, 32), (32, 8), (10, 8)],
    "voxelmorph-diff": [(2, 16), (16, 32), (32, 32), (32, 32), (32, 32), (64, 32), (64, 32), (48, 32), (32, 16)],
}
HEADS = {"voxelmorph1": {"flow": 8}, "voxelmorph-diff": {"flow": 16, "log_sigma": 16}}
REFERENCES = [
    ("cvpr2018_vm1_cc", "voxelmorph1", 8),
    ("cvpr2018_vm2_cc", "voxelmorph2", 8),
    ("miccai2018_10_02_init1", "voxelmorph-diff", 4),
]


def layers(name: str, first: int = 200) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random convolutions of one network under Keras' names; conv3d_1000 follows conv3d_999 but sorts before it."""
    rng = np.random.default_rng(0)
    named = {f"conv3d_{first + i}": io for i, io in enumerate(CHANNELS[name])}
    named |= {head: (inputs, 3) for head, inputs in HEADS[name].items()}
    return {
        key: (rng.normal(size=(3, 3, 3, a, b)).astype(np.float32) * 0.1, rng.normal(size=b).astype(np.float32))
        for key, (a, b) in named.items()
    }


def write(path, content: dict, group: str = "model_weights") -> str:
    with h5py.File(path, "w") as file:
        top = file.create_group(group)
        top.attrs["layer_names"] = [b"input_1", *(name.encode() for name in content)]
        top.create_group("input_1").attrs["weight_names"] = np.array([], dtype="S1")
        for name, (kernel, bias) in content.items():
            layer = top.create_group(name)
            layer.attrs["weight_names"] = [f"{name}_7/kernel:0".encode(), f"{name}_7/bias:0".encode()]
            layer[f"{name}_7/kernel:0"], layer[f"{name}_7/bias:0"] = kernel, bias
    return str(path)


@pytest.mark.parametrize(("file", "name", "every"), REFERENCES)
def test_the_authors_weights_give_the_authors_numbers(file, name, every, data_folder, tmp_path):
    """Against TensorFlow's output for one head and its mirror image, to 1e-3 (ours: about 1e-5)."""
    folder = data_folder / "voxelmorph_reference"
    if not (folder / "keras_reference.npz").is_file():
        pytest.skip(f"needs the authors' weights and Keras' output of them in {folder}")
    target = tmp_path / "model.safetensors"
    assert main(["import-weights", str(folder / f"{file}.h5"), "-o", str(target)]) == 0
    model = load_model(target)
    assert model.card.network == name and model.card.licence == "GPL-3.0"
    moving = torch.from_numpy(np.load(folder / "test_scan.npz")["vol"].astype(np.float32))[None, None]
    with torch.inference_mode():
        prediction = model.network(moving, moving.flip(2).contiguous())
    reference = np.load(folder / "keras_reference.npz")
    found = {"flow": prediction.field, "log_sigma": prediction.log_variance}
    inner = (slice(None), *(slice(every, -every, every),) * 3)
    for part, values in found.items():
        if values is not None:
            array_axes_first = values[0].flip(0)[inner].numpy()
            assert np.abs(array_axes_first - reference[f"{file}__{part}"]).max() < 1e-3


def test_recognized_by_shapes_and_read_in_the_models_order(tmp_path, capsys):
    content = layers("voxelmorph1", first=995)
    path = write(tmp_path / "a.h5", content)
    assert main(["import-weights", path, "-o", str(tmp_path / "m.safetensors"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["weights"] == 259_675 and printed["card"]["network"] == "voxelmorph1"
    network = load_model(tmp_path / "m.safetensors").network
    kernel, _ = content["conv3d_1000"]
    loaded = network.features.decoder[0].weight.numpy()
    assert np.array_equal(loaded, np.transpose(kernel, (4, 3, 0, 1, 2)))


@pytest.mark.parametrize(("order", "channels"), [("ij", (2, 1, 0)), ("xy", (2, 0, 1))])
def test_flow_channels_become_x_y_z(order, channels):
    """Ours: x is the last array axis. xy files: channel 1 displaces axis 0 and channel 0 axis 1."""
    content = layers("voxelmorph1")
    _, network = from_keras(content, order)
    assert np.array_equal(network.flow.bias.detach().numpy(), content["flow"][1][list(channels)])


def test_files_of_the_folder_xy_are_recognized(tmp_path):
    content = layers("voxelmorph1", first=1)
    path = write(tmp_path / "a.h5", content)
    assert main(["import-weights", path, "-o", str(tmp_path / "m.safetensors")]) == 0
    network = load_model(tmp_path / "m.safetensors").network
    assert np.array_equal(network.flow.bias.numpy(), content["flow"][1][[2, 0, 1]])


def test_learnt_scaling_is_undone():
    content = layers("voxelmorph-diff")
    plain, scaled = (from_keras(content, "ij", learnt)[1] for learnt in (False, True))
    scans = torch.rand(2, 1, 1, 16, 16, 16)
    with torch.no_grad():
        a, b = plain(*scans), scaled(*scans)
    assert torch.allclose(128 * a.field, b.field, rtol=1e-4, atol=1e-4)
    assert torch.allclose(128**2 * a.log_variance.exp(), b.log_variance.exp(), rtol=1e-3)


def refused(capsys, *arguments) -> str:
    assert main(["import-weights", *arguments]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_unusable_files_are_refused(tmp_path, capsys):
    out = str(tmp_path / "m.safetensors")
    good = layers("voxelmorph1")
    assert "no such file" in refused(capsys, str(tmp_path / "absent.h5"), "-o", out)
    (tmp_path / "text.h5").write_text("not HDF5")
    assert "not a readable Keras file" in refused(capsys, str(tmp_path / "text.h5"), "-o", out)
    whole = (tmp_path / "good.h5", write(tmp_path / "good.h5", good))[0].read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    assert "not a readable Keras file" in refused(capsys, str(tmp_path / "cut.h5"), "-o", out)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = np.zeros(3)
    assert "not a Keras weight file" in refused(capsys, str(tmp_path / "other.h5"), "-o", out)
    fewer = {name: layer for name, layer in good.items() if name != "conv3d_203"}
    assert "are not those of" in refused(capsys, write(tmp_path / "fewer.h5", fewer), "-o", out)
    broken = good | {"flow": (good["flow"][0] * np.nan, good["flow"][1])}
    assert "NaN" in refused(capsys, write(tmp_path / "nan.h5", broken), "-o", out)
    path = str(tmp_path / "good.h5")
    assert "holds weights of 'voxelmorph1'" in refused(capsys, path, "-o", out, "--architecture", "voxelmorph2")
    assert "did you mean 'voxelmorph1'" in refused(capsys, path, "-o", out, "--architecture", "voxelmorf1")
    assert ".safetensors" in refused(capsys, path, "-o", str(tmp_path / "m.pt"))
    assert not list(tmp_path.glob("m.*"))

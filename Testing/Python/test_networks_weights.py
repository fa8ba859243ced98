"""Models come back as they were stored; everything that could be damaged, foreign or dangerous is refused in one line."""

from __future__ import annotations

import hashlib
import json
import pickle

import pytest
import torch
from safetensors.torch import save

from DeepDiffRegLib.errors import ConfigError, InputError
from DeepDiffRegLib.networks import NETWORKS
from DeepDiffRegLib.networks.weights import (
    CanonicalGrid,
    Intensities,
    ModelCard,
    card_path,
    load_model,
    read_card,
    save_model,
)

GRID = CanonicalGrid((32, 48), (1.0, 1.5), ((1.0, 0.0), (0.0, 1.0)), (15.0, 20.5))


@pytest.fixture
def stored(tmp_path):
    """(path, network, card) of a small model on disk."""
    kind = NETWORKS.load("voxelmorph-diff")
    network = kind(kind.variant("light", ndim=2)).eval()
    card = ModelCard(
        "voxelmorph-diff",
        {},
        "Apache-2.0",
        "generated",
        GRID,
        Intensities(top=0.5),
        {"dice": 0.9},
        3,
        {"precision": 10.0},
    )
    path = tmp_path / "model.safetensors"
    return path, network, save_model(path, network, card)


def rewrite(path, **changes):
    values = json.loads(card_path(path).read_text())
    card_path(path).write_text(json.dumps(values | changes))


def test_a_header_whose_length_begins_like_a_pickle_is_no_pickle(stored):
    """The first byte of a safetensors file is the lowest of its header's length: 0x80 for every 32nd file."""
    path, network, _ = stored
    contents = (save(network.state_dict(), {"note": " " * n}) for n in range(0, 300, 8))
    content = next(c for c in contents if c.startswith(b"\x80"))
    path.write_bytes(content)
    rewrite(path, sha256=hashlib.sha256(content).hexdigest())
    loaded = load_model(path).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


def test_a_model_comes_back_as_it_was(stored):
    path, network, card = stored
    model = load_model(path)
    assert model.card == card == read_card(path)
    assert model.card.canonical == GRID and model.card.sha256 and model.card.library_version
    scans = torch.rand(2, 1, 1, 33, 40)
    with torch.no_grad():
        assert torch.equal(model.network(*scans).field, network(*scans).field)
    assert not model.network.training and not any(p.requires_grad for p in model.network.parameters())
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_changed_weights_do_not_match_their_card(stored):
    path = stored[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="SHA-256"):
        load_model(path)


def test_a_truncated_file_is_refused_even_with_a_matching_hash(stored):
    import hashlib

    path = stored[0]
    content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(InputError, match="SHA-256"):
        load_model(path)
    rewrite(path, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_model(path)


class Trap:
    """Unpickling this would run code."""

    def __reduce__(self):
        return pytest.fail, ("code from a file was run",)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.pkl", "model.ckpt", "model.bin"])
def test_pickled_files_are_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="refused"):
        load_model(tmp_path / name)


def test_pickled_files_are_refused_by_content(tmp_path, stored):
    path = tmp_path / "other.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="pickle"):
        load_model(path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"torch\.save"):
        load_model(path)


def test_keras_files_are_sent_to_the_importer(tmp_path):
    with pytest.raises(InputError, match="import-weights"):
        load_model(tmp_path / "weights.h5")


def test_missing_files_are_named(stored):
    path = stored[0]
    card_path(path).unlink()
    with pytest.raises(InputError, match=r"model card model\.json is missing"):
        load_model(path)
    with pytest.raises(InputError, match="no such model"):
        load_model(path.with_name("absent.safetensors"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"license": "x"}, "did you mean 'licence'"),
        ({"network": "voxelmorf2"}, "did you mean 'voxelmorph2'"),
        ({"network": "voxelmorph1"}, "weights"),
        ({"architecture": {"ndim": 3}}, "weights"),
        ({"architecture": {"encodr": [8]}}, "encoder"),
        ({"canonical": {"size": [8, 8]}}, "spacing_mm"),
        ({"canonical": {"size": [8, 8], "spacing_mm": [1, "a"], "direction": [[1, 0], [0, 1]]}}, "canonical grid"),
        ({"preprocessing": {"clip_percentiles": [50, 10]}}, "percentiles"),
    ],
)
def test_a_card_that_does_not_fit_is_one_clear_error(stored, changes, says):
    rewrite(stored[0], **changes)
    with pytest.raises(InputError, match=says) as error:
        load_model(stored[0])
    assert "\n" not in str(error.value)


def test_a_card_must_say_the_licence(stored):
    values = json.loads(card_path(stored[0]).read_text())
    del values["licence"]
    with pytest.raises(ConfigError, match="'licence' is missing"):
        ModelCard.from_dict(values)
    card_path(stored[0]).write_text("{")
    with pytest.raises(InputError, match="not a usable model card"):
        load_model(stored[0])


def test_weights_that_are_no_numbers_are_refused(stored):
    path, network, card = stored
    with torch.no_grad():
        network.flow.bias[0] = float("nan")
    save_model(path, network, card)
    with pytest.raises(InputError, match="NaN"):
        load_model(path)

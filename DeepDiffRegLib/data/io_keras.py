"""Reading of Keras weight files (HDF5) as plain arrays, without Keras."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError

GROUP = "model_weights"


def read_keras_layers(path: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer name -> (kernel, bias) of every convolution, in the order of the model.

    The order is the file's own list of layers, not HDF5's alphabetical one. Only numbers are read: layers with code, such as
    pickled functions, are never unpacked. Raises ``InputError`` for a file that is no Keras model or is damaged.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    layers = {}
    try:
        with h5py.File(path, "r") as file:
            group = file.get(GROUP, file)
            if "layer_names" not in group.attrs:
                raise InputError(f"{path}: HDF5, but not a Keras weight file: it has no list of layers")
            for name in _texts(group.attrs["layer_names"]):
                names = _texts(group[name].attrs["weight_names"])
                if names:
                    layers[name] = _kernel_and_bias(path, name, [_numbers(path, group[name][n]) for n in names])
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable Keras file ({error})") from error
    return layers


def _texts(values) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _numbers(path: Path, dataset) -> np.ndarray:
    if getattr(dataset, "dtype", None) != np.float32:
        raise InputError(f"{path}: {dataset.name} must hold float32 numbers")
    values = dataset[()]
    if not np.isfinite(values).all():
        raise InputError(f"{path}: {dataset.name} holds NaN or Inf")
    return values


def _kernel_and_bias(path: Path, name: str, arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if len(arrays) != 2 or arrays[1].ndim != 1 or arrays[0].shape[-1:] != arrays[1].shape:
        shapes = [a.shape for a in arrays]
        raise InputError(f"{path}: layer {name!r} must have a kernel and a bias, as convolutions have, got {shapes}")
    return arrays[0], arrays[1]

"""Bring the VoxelMorph authors' Keras weights into this library's format.

Writes FILE.safetensors and its model card FILE.json. The architecture is recognized by the shapes of the layers. The files of
2018 were published under the GPL-3.0: what is imported from them stays under it, and the card says so.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ..errors import InputError
from ..registry import nearest
from ._inputs import JSON_HELP

if TYPE_CHECKING:
    from ..networks.weights import ModelCard
    from ..progress import PrintProgress

FIRST_LAYER_OF_XY = "conv3d_1"
NOTES = "Imported from Keras. Expect poor results on scans with skull, of other contrast or of other anatomy."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of this sub-command."""
    parser.usage = "deepdiffreg import-weights FILE.h5 -o FILE.safetensors [options]"
    parser.add_argument("file", metavar="FILE.h5", help="Keras weights of VM-1, VM-2 or VoxelMorph-diff")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.safetensors", help="file to write")
    parser.add_argument("--architecture", metavar="NAME", help="refuse files of any other network than this one")
    parser.add_argument(
        "--flow-order",
        choices=("auto", "ij", "xy"),
        default="auto",
        help="xy: the first two flow channels are exchanged, as in the files of the folder xy (auto: by the layers' names)",
    )
    parser.add_argument(
        "--learnt-scaling", action="store_true", help="the network gives v / 128, as miccai_2018_70000_005 does"
    )
    parser.add_argument("--licence", default="GPL-3.0", help="of the weights, for the card (default: GPL-3.0)")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)


def run(arguments: argparse.Namespace, progress: PrintProgress) -> int:
    """Read, recognize, write; returns the exit code."""
    from ..data.io_keras import read_keras_layers
    from ..networks import NETWORKS
    from ..networks.keras_layers import CANONICAL, DATA, PRIOR, TOP, from_keras
    from ..networks.weights import CanonicalGrid, Intensities, ModelCard, save_model

    wanted = arguments.architecture
    if wanted is not None and wanted not in NETWORKS:
        raise InputError(f"--architecture: unknown network {wanted!r}{nearest(wanted, NETWORKS)}")
    layers = read_keras_layers(arguments.file)
    order = arguments.flow_order
    if order == "auto":
        order = "xy" if next(iter(layers), None) == FIRST_LAYER_OF_XY else "ij"
    name, network = from_keras(layers, order, arguments.learnt_scaling)
    if wanted not in (None, name):
        raise InputError(f"{arguments.file}: holds weights of {name!r}, not of {wanted!r}")
    card = ModelCard(
        name, {}, arguments.licence, DATA, CanonicalGrid(**CANONICAL), Intensities(top=TOP), prior=PRIOR.get(name, {}), notes=NOTES
    )  # fmt: skip
    card = save_model(arguments.output, network, card)
    _tell(arguments, card, network.count_parameters())
    return 0


def _tell(arguments: argparse.Namespace, card: ModelCard, weights: int) -> None:
    if arguments.json:
        print(json.dumps({"file": arguments.output, "weights": weights, "card": card.to_dict()}))
        return
    print(f"{arguments.output}: {card.network}, {weights:,} weights, licence {card.licence}")

"""Networks that predict a deformation: tensors in, tensors out. Weights come from files (``weights``)."""

from ..registry import Entry, Registry

_HERE = "DeepDiffRegLib.networks"
NETWORKS = Registry(
    "network",
    Entry(
        "voxelmorph1",
        f"{_HERE}.voxelmorph:VoxelMorph1",
        "small U-Net to a displacement",
        "Balakrishnan et al., CVPR 2018",
    ),
    Entry(
        "voxelmorph2",
        f"{_HERE}.voxelmorph:VoxelMorph2",
        "larger U-Net to a displacement",
        "Balakrishnan et al., CVPR 2018",
    ),
    Entry(
        "voxelmorph-diff",
        f"{_HERE}.voxelmorph:VoxelMorphDiff",
        "U-Net to a velocity and its uncertainty",
        "Dalca et al., MedIA 2019",
    ),
    Entry(
        "transmorph",
        f"{_HERE}.transmorph:TransMorph",
        "windowed attention to a displacement",
        "Chen et al., MedIA 2022",
    ),
    Entry(
        "transmorph-tvf",
        f"{_HERE}.transmorph_tvf:TransMorphTVF",
        "windowed attention to a sequence of velocities",
        "Chen et al., 2024",
    ),
)

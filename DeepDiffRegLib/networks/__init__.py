"""Networks that predict a deformation or give features: tensors in, tensors out. Weights come from files (``weights``)."""

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
    Entry("affine-net", f"{_HERE}.affine_net:AffineNet", "pooled features to a matrix", "Shen et al., CVPR 2019"),
    Entry(
        "vsvf-net",
        f"{_HERE}.momentum_net:VSVFNet",
        "U-Net to the momentum of a stationary velocity",
        "Shen et al., CVPR 2019",
    ),
    Entry("lddmm-net", f"{_HERE}.momentum_net:LDDMMNet", "U-Net to the momentum of a geodesic", "Shen et al., 2019"),
    Entry(
        "rdmm-net",
        f"{_HERE}.momentum_net:RDMMNet",
        "two U-Nets to momentum and local stiffness",
        "Shen et al., NeurIPS 2019",
    ),
)
FEATURES = Registry(
    "feature network",
    Entry(
        "unet", f"{_HERE}.feature_unet:FeatureUNet", "U-Net to feature images at three resolutions", "Jena et al., 2024"
    ),
    Entry(
        "unet-e",
        f"{_HERE}.feature_unet:FeatureUNetEncoders",
        "an encoder for each resolution: features of little reach, the smallest network",
        "Jena et al., 2024",
    ),
    Entry(
        "lku", f"{_HERE}.feature_lku:LKU", "large-kernel U-Net to feature images", "Jia et al., 2022; Jena et al., 2024"
    ),
    Entry(
        "lku-e",
        f"{_HERE}.feature_lku:LKUEncoders",
        "a large-kernel encoder for each resolution",
        "Jena et al., 2024",
    ),
    Entry(
        "mind-net",
        f"{_HERE}.feature_mind:MINDNet",
        "self-similarity descriptors with learned corrections: a scan's negative has the same features",
        "Heinrich et al., 2013",
    ),
)
"""Networks that see one scan and give feature images for the solver (method ``dio``)."""


def network_class(name: str) -> type:
    """The class registered under this name in either table; an unknown name is a ``ConfigError``."""
    return (FEATURES if name in FEATURES else NETWORKS).load(name)

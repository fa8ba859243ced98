"""Transform models: parameters -> fixed_to_moving map. The table of what can be optimised."""

from ..registry import Entry, Registry

_HERE = "DeepDiffRegLib.transforms"
TRANSFORMS = Registry(
    "transform",
    Entry("translation", f"{_HERE}.affine:TranslationModel", "translation alone"),
    Entry("rigid", f"{_HERE}.affine:RigidModel", "rotation and translation"),
    Entry("similarity", f"{_HERE}.affine:SimilarityModel", "rotation, translation and one scale"),
    Entry("affine", f"{_HERE}.affine:AffineModel", "rotation, translation, scales and shears"),
    Entry("bspline", f"{_HERE}.bspline:BSplineModel", "cubic B-spline control points", "Rueckert et al., TMI 1999"),
    Entry("displacement", f"{_HERE}.displacement:DisplacementModel", "free form: one displacement per voxel, may fold"),
    Entry(
        "svf", f"{_HERE}.svf:SVFModel", "stationary velocity field, inverse by exp(-v)", "Arsigny et al., MICCAI 2006"
    ),
    Entry(
        "diffeomorphic",
        f"{_HERE}.diffeomorphic:DiffeomorphicModel",
        "composed small steps, fold-free",
        "Jena et al., 2024",
    ),
    Entry(
        "vsvf",
        f"{_HERE}.lddmm:VSVFModel",
        "stationary velocity from a momentum, with an energy",
        "Shen et al., CVPR 2019",
    ),
    Entry(
        "lddmm",
        f"{_HERE}.lddmm:LDDMMModel",
        "geodesic shooting (EPDiff): large deformations",
        "Vialard et al., IJCV 2012",
    ),
    Entry(
        "rdmm",
        f"{_HERE}.rdmm:RDMMModel",
        "shooting with stiff and soft tissue that moves along",
        "Shen et al., NeurIPS 2019",
    ),
)

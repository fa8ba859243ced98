"""Published experiments that need no private data: one file each, numbers held against limits."""

from ..registry import Entry, Registry

_HERE = "DeepDiffRegLib.reproduce"
_DIO = "Jena et al., 2024"
_RDMM = "Shen et al., NeurIPS 2019"
EXPERIMENTS = Registry(
    "experiment",
    Entry(
        "integration-steps",
        f"{_HERE}.integration_steps:IntegrationSteps",
        "folds, inverse error and time of integrating a real network's velocities",
        "Dalca et al., MedIA 2019",
    ),
    Entry(
        "c-shape",
        f"{_HERE}.c_shape:CShape",
        "a trained network turns disks into Cs and back: very large deformations without folds",
        "Dalca et al., MedIA 2019",
    ),
    Entry(
        "covariance-uncertainty",
        f"{_HERE}.covariance_uncertainty:CovarianceUncertainty",
        "diagonal and smoothed covariance, and how the spread of sampled maps follows the prior's precision",
        "Dalca et al., MedIA 2019",
    ),
    Entry(
        "surface",
        f"{_HERE}.surface:SurfaceTerm",
        "structures that the images do not tell apart meet when the loss sees their surfaces",
        "Dalca et al., MedIA 2019",
    ),
    Entry(
        "lambda-sweep",
        f"{_HERE}.lambda_sweep:LambdaSweep",
        "VM-1, VM-2 and affine alignment on slices of brains, over the weight of smoothness",
        "Balakrishnan et al., CVPR 2018",
    ),
    Entry(
        "tvf",
        f"{_HERE}.tvf:TimeVarying",
        "a sequence of velocities beats one displacement of the same backbone, and has an inverse",
        "Chen et al., 2024",
    ),
    Entry(
        "dio-squares",
        f"{_HERE}.dio_squares:DIOSquares",
        "squares that do not touch: intensities tell no solver where to go, learned features do",
        _DIO,
    ),
    Entry(
        "implicit-bias",
        f"{_HERE}.implicit_bias:ImplicitBias",
        "one channel leaves the force on a voxel one line to act along; many features leave it any direction",
        _DIO,
    ),
    Entry(
        "dio-switch",
        f"{_HERE}.dio_switch:DIOSwitch",
        "features serve transform models that they were not trained with, and landmarks given at test time",
        _DIO,
    ),
    Entry(
        "dio-domain-shift",
        f"{_HERE}.dio_domain_shift:DIODomainShift",
        "other voxels, crops and contrasts: a solver on features loses less than a predicted map",
        _DIO,
    ),
    Entry(
        "train-shipped",
        f"{_HERE}.train_shipped:TrainShipped",
        "features learned from generated anatomies find partners across contrasts",
        "Hoffmann et al., TMI 2022; Jena et al., 2024",
    ),
    Entry(
        "rdmm-energy", f"{_HERE}.rdmm_energy:RDMMEnergy", "shooting keeps its energy, with the source term only", _RDMM
    ),
    Entry(
        "rdmm-predefined",
        f"{_HERE}.rdmm_predefined:RDMMPredefined",
        "a soft region in stiff surroundings keeps its stiffness as it moves",
        _RDMM,
    ),
    Entry(
        "rdmm-net",
        f"{_HERE}.rdmm_net:RDMMNet",
        "networks that predict momentum and stiffness against their optimisation",
        _RDMM,
    ),
    Entry(
        "affine-net",
        f"{_HERE}.affine_net:AffineNetwork",
        "a network's affine guess against moments, and the descent from either, on slices of brains",
        "Shen et al., CVPR 2019",
    ),
    Entry(
        "rdmm-optimised",
        f"{_HERE}.rdmm_optimised:RDMMOptimised",
        "stiffness found with the map: small Gaussians only where they are needed",
        _RDMM,
    ),
)

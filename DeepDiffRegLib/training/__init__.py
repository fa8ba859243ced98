"""Training of the networks: losses, data, the loop. Offline; only the command line and the experiments use it."""

from ..registry import Entry, Registry

_HERE = "DeepDiffRegLib.training"
LOSSES = Registry(
    "loss",
    Entry(
        "mse", f"{_HERE}.image_losses:MeanSquaresLoss", "squared difference over image_sigma^2", "Dalca et al., 2019"
    ),
    Entry("lncc", f"{_HERE}.image_losses:LNCCLoss", "local correlation in windows of 9", "Balakrishnan et al., 2018"),
    Entry("ncc", f"{_HERE}.image_losses:NCCLoss", "correlation of the whole scans"),
    Entry(
        "mk-lncc", f"{_HERE}.image_losses:MultiKernelLoss", "local correlation in several windows", "Shen et al., 2019"
    ),
    Entry("kl", f"{_HERE}.kl:KL", "distance of the velocity's posterior from its prior", "Dalca et al., MedIA 2019"),
    Entry("diffusion", f"{_HERE}.field_losses:DiffusionLoss", "squared first derivatives of the displacement"),
    Entry("known-map", f"{_HERE}.field_losses:KnownMapLoss", "distance to the known map of a generated pair"),
    Entry("lddmm", f"{_HERE}.field_losses:LDDMMLoss", "||L v||^2 of every velocity", "Chen et al., 2024"),
    Entry("kinetic", f"{_HERE}.shooting_losses:KineticLoss", "energy of the flow of a momentum", "Shen et al., 2019"),
    Entry("omt", f"{_HERE}.shooting_losses:TransportLoss", "local stiffness: how far from the widest Gaussian"),
    Entry("weight-range", f"{_HERE}.shooting_losses:WeightRangeLoss", "local stiffness: how far from where it started"),
    Entry("inverse", f"{_HERE}.shooting_losses:InverseLoss", "the maps of both directions undo each other"),
    Entry("identity", f"{_HERE}.shooting_losses:IdentityLoss", "size of an affine map"),
    Entry("dice", f"{_HERE}.structure_losses:DiceLoss", "overlap of labels, one at a time"),
    Entry("structures", f"{_HERE}.feature_losses:StructuresLoss", "features tell the labels nearby from each other"),
    Entry("surface", f"{_HERE}.structure_losses:SurfaceLoss", "distance of surfaces both ways", "Dalca et al., 2019"),
)

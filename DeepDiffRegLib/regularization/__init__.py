"""How smooth or plausible a displacement field is (lower is better)."""

from ..registry import Entry, Registry

_HERE = "DeepDiffRegLib.regularization"
REGULARIZERS = Registry(
    "regularization",
    Entry("diffusion", f"{_HERE}.diffusion:Diffusion", "squared first derivatives", "Fischer & Modersitzki, 2002"),
    Entry(
        "bending",
        f"{_HERE}.bending:Bending",
        "squared second derivatives: free of charge for affine maps",
        "Rueckert et al., TMI 1999",
    ),
    Entry("folding", f"{_HERE}.folding:Folding", "penalty where the Jacobian determinant falls below a margin"),
    Entry(
        "inverse-consistency",
        f"{_HERE}.inverse_consistency:InverseConsistency",
        "distance of phi o phi^-1 from the identity",
    ),
)

"""How alike two scans are (lower is better)."""

from ..registry import Entry, Registry

_HERE = "DeepDiffRegLib.similarity"
SIMILARITIES = Registry(
    "similarity",
    Entry("mse", f"{_HERE}.mean_squares:MeanSquares", "mean squared difference: one scanner, one protocol"),
    Entry("ncc", f"{_HERE}.ncc:NCC", "global correlation: same modality, other brightness or contrast"),
    Entry("lncc", f"{_HERE}.lncc:LNCC", "local correlation: same modality with shading", "Avants et al., MedIA 2008"),
    Entry(
        "mk-lncc",
        f"{_HERE}.mk_lncc:MultiKernelLNCC",
        "local correlation at several window sizes",
        "Shen et al., CVPR 2019",
    ),
    Entry(
        "mi",
        f"{_HERE}.mutual_information:MutualInformation",
        "mutual information: different modalities",
        "Mattes et al., TMI 2003",
    ),
    Entry(
        "mind",
        f"{_HERE}.mind:MIND",
        "self-similarity descriptors: different modalities",
        "Heinrich et al., MICCAI 2013",
    ),
    Entry("dice", f"{_HERE}.dice:Dice", "overlap of soft segmentations, one channel per label"),
)

"""Who solves it: one file per family."""

from ..registry import Entry, Registry

METHODS = Registry(
    "method",
    Entry("iterative", "DeepDiffRegLib.methods.iterative:Iterative", "optimise any transform model on the pair itself"),
    Entry(
        "feedforward",
        "DeepDiffRegLib.methods.feedforward:Feedforward",
        "a network's prediction, then refined by the same solver",
    ),
    Entry(
        "dio",
        "DeepDiffRegLib.methods.dio:DIO",
        "the same solver on a network's features instead of intensities, any transform and prompts",
        "Jena et al., 2024",
    ),
)

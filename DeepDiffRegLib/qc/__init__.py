"""Quality checks. Each entry: ``compute(context) -> list[Finding]``."""

from ..registry import Entry, Registry

_HERE = "DeepDiffRegLib.qc"
CHECKS = Registry(
    "quality check",
    Entry(
        "similarity", f"{_HERE}.similarity:compute", "do the scans look alike after registration, and more than before"
    ),
    Entry("coverage", f"{_HERE}.coverage:compute", "how much of the fixed anatomy the moving scan covers"),
    Entry("overlap", f"{_HERE}.overlap:compute", "Dice, HD95 and surface distance per label"),
    Entry("landmarks", f"{_HERE}.landmarks:compute", "target registration error of the landmarks"),
    Entry("jacobian", f"{_HERE}.jacobian:compute", "local volume change, SDlogJ and folded voxels"),
    Entry("segments", f"{_HERE}.segments:compute", "volume change and Jacobian percentiles of every structure"),
    Entry("inverse_consistency", f"{_HERE}.inverse_consistency:compute", "error of the inverse transform"),
    Entry("displacement", f"{_HERE}.displacement:compute", "how far the anatomy moves"),
    Entry("uncertainty", f"{_HERE}.uncertainty:compute", "how sure a probabilistic network is of its map"),
)

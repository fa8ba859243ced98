"""Sample data: an invented anatomy, scanned twice. Generated on the user's computer, nothing is downloaded."""

import hashlib
import logging
import pathlib

import slicer
from slicer.i18n import tr as _

from . import packages

CATEGORY = "DeepDiffReg"
NAME = "DeepDiffRegTorso"
SIZE = (96, 80, 64)
DEFORMATION_MM = 14.0
FILES = {
    "fixed.nii.gz": "DeepDiffReg fixed",
    "moving.nii.gz": "DeepDiffReg moving",
    "fixed_labels.nii.gz": "DeepDiffReg fixed segments",
    "moving_labels.nii.gz": "DeepDiffReg moving segments",
}
CHECKSUMS = {
    "fixed_labels.nii.gz": "SHA256:af09f4c07ffb415610435111bb484d6a71ec4aaf90f98a3c28c1f75c3242d6b1",
    "moving_labels.nii.gz": "SHA256:bb2cf24df51741b8ff966da98ba5635d0d65fa646b429daa1d82db023ab5f534",
}
"""Of the label maps' voxels. Intensities may differ in the last digit between processors, so they carry none."""
CODE = """
import sys
from DeepDiffRegLib.data.phantoms import make_pair, write_pair
write_pair(make_pair(0, {size}, deformation_mm={deformation}), sys.argv[1])
"""


def register(iconFolder):
    """Tell the module Sample Data about the pair."""
    import SampleData

    thumbnail = pathlib.Path(iconFolder) / "DeepDiffRegTorso.png"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        uris=["" for _file in FILES],
        fileNames=list(FILES),
        nodeNames=list(FILES.values()),
        checksums=[CHECKSUMS.get(name) for name in FILES],
        thumbnailFileName=str(thumbnail) if thumbnail.is_file() else None,
        customDownloader=lambda _source: load(),
    )


def load():
    """Generate the scans if need be, load them and return the nodes: two volumes and two label maps."""
    folder = packages.downloadsFolder()
    if not all((folder / name).is_file() for name in FILES):
        generate(folder)
    return [_load(folder / name, title) for name, title in FILES.items()]


def generate(folder):
    """Write the scans into ``folder``, in a process of its own. Raises RuntimeError with what is missing."""
    names = packages.missing()
    if names:
        raise RuntimeError(
            _("The sample scans are generated on this computer, which needs {names}: see the section Set-up.").format(
                names=", ".join(names)
            )
        )
    folder.mkdir(parents=True, exist_ok=True)
    errors = packages.runPython(CODE.format(size=SIZE, deformation=DEFORMATION_MM), str(folder))
    if errors:
        raise RuntimeError(_("The sample scans could not be generated: {why}").format(why=errors[-300:]))


def _load(path, title):
    labels = path.name in CHECKSUMS
    node = slicer.util.loadLabelVolume(str(path)) if labels else slicer.util.loadVolume(str(path))
    node.SetName(title)
    if labels and checksumOf(node) != CHECKSUMS[path.name]:
        logging.warning("DeepDiffReg: %s differs from the reference: another version of NumPy, or a changed file", path)
    return node


def checksumOf(volume):
    """``SHA256:`` and the digest of a label map's voxels as bytes."""
    voxels = slicer.util.arrayFromVolume(volume).astype("uint8")
    return f"SHA256:{hashlib.sha256(voxels.tobytes()).hexdigest()}"

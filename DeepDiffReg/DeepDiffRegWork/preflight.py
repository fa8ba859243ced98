"""Reasons not to run, found before any work and told in one line."""

import pathlib

from slicer.i18n import tr as _

from . import packages


def reasonNotToRun(fixed, moving):
    """Why Run is not possible with these volume nodes, or an empty text."""
    names = packages.missing()
    if names:
        return _("Packages are missing: {names}. Install them in the section Set-up.").format(names=", ".join(names))
    for node, text in ((fixed, _("Choose a fixed volume.")), (moving, _("Choose a moving volume."))):
        if node is None:
            return text
    if fixed is moving:
        return _("Fixed and moving are the same volume; choose two.")
    return unusable(fixed) or unusable(moving)


def reasonAgainstModel(method, modelFile):
    """Why a method cannot be run with this model file, or an empty text."""
    if modelFile and not pathlib.Path(modelFile).is_file():
        return _("The model file {name} does not exist.").format(name=modelFile)
    if method == "feedforward" and not modelFile:
        return _("The method feedforward needs a model file (Inputs, Advanced).")
    return ""


def unusable(volume):
    """Why a volume node cannot be registered, or an empty text."""
    image = volume.GetImageData()
    name = volume.GetName()
    if image is None or image.GetPointData().GetScalars() is None:
        return _("{name} has no voxels.").format(name=name)
    if image.GetNumberOfScalarComponents() != 1:
        return _("{name} has several values per voxel; choose a scalar volume.").format(name=name)
    if min(image.GetDimensions()) < 2:
        return _("{name} is a single slice; this module registers volumes, the command line registers slices.").format(
            name=name
        )
    return ""


def reasonNotToUpdate(hasMap, prompts):
    """Why Update is not possible, or an empty text. prompts: a PromptSummary."""
    if not hasMap:
        return _("Run first: an update continues from a map.")
    return prompts.problem

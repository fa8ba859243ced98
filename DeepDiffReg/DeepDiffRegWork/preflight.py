"""Reasons not to run, found before any work and told in one line."""

from DeepDiffRegScene import convert
from slicer.i18n import tr as _

from DeepDiffRegLib.config import Choice, Config, load_preset, preset_names
from DeepDiffRegLib.errors import InputError
from DeepDiffRegLib.networks.files import METHOD_OF, method_of, model_names, model_path, network_of

from . import packages

LOCAL = "rdmm"
"""The transform model with a metric that differs from place to place."""


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


def reasonAgainstModel(state):
    """Why the method, the panel's or the preset's, cannot be run with the model, or an empty text."""
    preset = _presetOf(state)
    model = state.modelFile or preset.model
    method = state.method or (method_of(state.modelFile) if state.modelFile else preset.method)
    wanted = [name for name, _table in METHOD_OF]
    if not model:
        text = _("The method {method} needs a model file (Inputs, Advanced).")
        return text.format(method=method) if method in wanted else ""
    try:
        path = model_path(model)
    except InputError:
        text = _("There is no model {name}. Models that come with the module: {names}.")
        return text.format(name=model, names=", ".join(model_names()) or _("none"))
    if not path.is_file():
        return _("The model file {name} does not exist.").format(name=model)
    if not network_of(model):
        return _("The model file {name} has no readable card beside it ({card}).").format(
            name=path.name, card=path.with_suffix(".json").name
        )
    if method != method_of(model):
        return _("The model {name} is for the method {right}, not for {method} (Inputs, Advanced).").format(
            name=path.stem, right=method_of(model), method=method
        )
    return ""


def markedSegments(state):
    """``stiff`` or ``soft`` by id of the segments of the moving scan that carry a mark and still exist."""
    node, marks = state.movingSegmentation, dict(state.stiffness)
    if node is None or not marks:
        return {}
    known = {row.segment_id for row in convert.segment_table(node)}
    return {segment: kind for segment, kind in marks.items() if segment in known}


def reasonAgainstStiffness(state):
    """Why marked segments would not act with this preset and transform, or an empty text."""
    if not markedSegments(state) or _transformOf(state).name == LOCAL:
        return ""
    names = [name for name in preset_names() if load_preset(name).transform.name == LOCAL]
    return _("Stiff and soft segments act with the transform {model} only: choose the preset {presets}.").format(
        model=LOCAL, presets=_(" or ").join(names)
    )


def reasonAgainstStiffUpdate(state, model):
    """Why marked segments would not act on an update of a map made with transform ``model``, or an empty text."""
    if not markedSegments(state) or model == LOCAL:
        return ""
    return _("The map was made with the transform {model}: press Run, so that stiff and soft segments act.").format(
        model=model
    )


def tissueOfTheRest(state):
    """A line for people: what is assumed of tissue that is not marked."""
    kind = _transformOf(state).options.get("background", "stiff")
    return _("All that is not marked is soft.") if kind == "soft" else _("All that is not marked is stiff.")


def _presetOf(state):
    return load_preset(state.preset) if state.preset in preset_names() else Config()


def _transformOf(state):
    known = load_preset(state.preset).transform if state.preset in preset_names() else Choice("")
    if state.transformModel and state.transformModel != known.name:
        return Choice(state.transformModel)
    return known


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

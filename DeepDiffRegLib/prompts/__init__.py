"""User's hints -> energy terms and warm starts."""

from ..registry import Entry, Registry

_HERE = "DeepDiffRegLib.prompts"
PROMPTS = Registry(
    "prompt",
    Entry("landmarks", f"{_HERE}.landmarks:LandmarkPrompt", "corresponding points"),
    Entry("labels", f"{_HERE}.labels:LabelPrompt", "corresponding segments"),
    Entry("masks", f"{_HERE}.masks:MaskPrompt", "where the scans are compared"),
)

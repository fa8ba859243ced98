"""The command line: one file per sub-command, each with ``add_arguments(parser)`` and ``run(arguments, progress)``."""

from ..registry import Entry, Registry

_HERE = "DeepDiffRegLib.cli"
COMMANDS = Registry(
    "command",
    Entry("register", f"{_HERE}.register", "align a moving scan with a fixed one"),
    Entry("apply", f"{_HERE}.apply", "send an image, label map, points or a surface through a transform"),
    Entry("evaluate", f"{_HERE}.evaluate", "run every quality check on a transform"),
    Entry(
        "propose", f"{_HERE}.propose", "propose landmarks: partners of your points, or places where one would help most"
    ),
    Entry("methods", f"{_HERE}.methods", "list what can be chosen, with one line of help each"),
    Entry("demo", f"{_HERE}.demo", "register generated anatomy, use one prompt, write the report"),
    Entry("train", f"{_HERE}.train", "train a network on your own scans"),
    Entry("reproduce", f"{_HERE}.reproduce", "repeat a published experiment on generated data"),
    Entry("import-weights", f"{_HERE}.import_weights", "bring the VoxelMorph authors' Keras weights into this format"),
    Entry("info", f"{_HERE}.info", "versions, devices, threads, presets"),
)

"""Is the extension whole where it runs? Every package is found, presets load, nothing heavy came along.

Inside Slicer ctest runs this through ``slicer.testing.runUnitTest``; outside, ``python -m unittest`` with the folder of the
installed module on the path runs all but the last test.
"""

import importlib
import importlib.util
import sys
import unittest
from pathlib import Path


class DeepDiffRegInstalledTest(unittest.TestCase):
    def test_library_and_presets_load(self):
        config = importlib.import_module("DeepDiffRegLib.config")
        names = config.preset_names()
        self.assertIn("default", names)
        for name in names:
            self.assertEqual(config.load_preset(name).name, name)

    def test_registries_load_without_torch(self):
        had_torch = "torch" in sys.modules
        for name in ("transforms", "similarity", "methods", "qc"):
            importlib.import_module(f"DeepDiffRegLib.{name}")
        self.assertEqual("torch" in sys.modules, had_torch)

    def test_report_template_is_there(self):
        library = Path(importlib.import_module("DeepDiffRegLib").__file__).parent
        self.assertTrue((library / "export" / "report.html.j2").is_file())

    def test_module_is_loaded(self):
        if importlib.util.find_spec("slicer") is None:
            self.skipTest("needs a running Slicer")
        slicer = importlib.import_module("slicer")
        if not hasattr(slicer, "modules"):
            self.skipTest("needs a running Slicer, found the slicer-core package")
        self.assertTrue(hasattr(slicer.modules, "deepdiffreg"))
        folder = Path(slicer.modules.deepdiffreg.path).parent
        for name in ("UI/DeepDiffReg.ui", "Icons/DeepDiffReg.png", "requirements.txt"):
            self.assertTrue((folder / "Resources" / name).is_file(), name)

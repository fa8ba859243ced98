"""Small modules: ``slicer.i18n``, ``slicer.packaging``, ``SampleData``, ``PyTorchUtils``."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import types
from pathlib import Path


def i18n() -> types.ModuleType:
    """``slicer.i18n``: texts stay as they are, but calls are counted so that a test can see what is translatable."""
    module = types.ModuleType("slicer.i18n", i18n.__doc__)
    module.seen = []

    def tr(text):
        if not isinstance(text, str):
            raise TypeError(f"tr(): expected a text, got {text!r}")
        module.seen.append(text)
        return text

    def translate(context, text):
        module.seen.append(text)
        return text

    module.tr, module.translate = tr, translate
    module.getContext = lambda path: Path(path).stem
    return module


def packaging(log: list) -> types.ModuleType:
    """``slicer.packaging``: checks what is installed, records what it was asked to install, installs nothing."""
    from packaging.requirements import Requirement

    module = types.ModuleType("slicer.packaging", packaging.__doc__)
    module.missing = set()  # names a test declares absent

    def as_list(requirements):
        if isinstance(requirements, (str, Requirement)):
            requirements = requirements.split() if isinstance(requirements, str) else [requirements]
        return [item if isinstance(item, Requirement) else Requirement(item) for item in requirements]

    def pip_check(requirements, **_):
        for item in as_list(requirements):
            if item.marker is not None and not item.marker.evaluate():
                continue
            if item.name in module.missing:
                return False
            try:
                version = importlib.metadata.version(item.name)
            except importlib.metadata.PackageNotFoundError:
                return False
            if not item.specifier.contains(version, prereleases=True):
                return False
        return True

    def load_requirements(path):
        lines = (line.split("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
        return [Requirement(line) for line in lines if line]

    def pip_install(requirements, **options):
        log.append(("pip_install", [str(item) for item in as_list(requirements)], options))
        module.missing -= {item.name for item in as_list(requirements)}
        if options.get("completedCallback"):
            options["completedCallback"](0)

    def pip_ensure(requirements, **options):
        import slicer

        log.append(("pip_ensure", [str(item) for item in as_list(requirements)], options))
        if slicer.app.testingEnabled():
            return []
        if not pip_check(requirements):
            pip_install(requirements)
        return []

    module.pip_check, module.load_requirements = pip_check, load_requirements
    module.pip_install, module.pip_ensure = pip_install, pip_ensure
    module.pip_uninstall = lambda requirements, **options: log.append(("pip_uninstall", requirements, options))
    module.isPipInstallInProgress = lambda: False
    return module


def sample_data() -> types.ModuleType:
    """``SampleData``: keeps registered sources and downloads nothing."""
    module = types.ModuleType("SampleData", sample_data.__doc__)
    sources: dict[str, list] = {}

    @dataclasses.dataclass
    class SampleDataSource:
        sampleName: str = ""
        sampleDescription: str | None = None
        uris: list | str | None = None
        fileNames: list | str | None = None
        nodeNames: list | str | None = None
        checksums: list | str | None = None
        loadFiles: list | bool | None = None
        customDownloader: object = None
        thumbnailFileName: str | None = None
        loadFileType: object = None
        loadFileProperties: dict | None = None

    class SampleDataLogic:
        """The two static functions a module calls when the application has started."""

        @staticmethod
        def registerCustomSampleDataSource(category="Custom", **values):
            """Remember a source; unknown arguments are an error."""
            sources.setdefault(category, []).append(SampleDataSource(**values))

        @staticmethod
        def registerCustomSampleDataCategory(category, **_):
            """Remember a category."""
            sources.setdefault(category, [])

    module.SampleDataSource, module.SampleDataLogic, module.sources = SampleDataSource, SampleDataLogic, sources
    return module


def pytorch_utils(log: list) -> types.ModuleType:
    """``PyTorchUtils``: says what is installed without importing torch, installs nothing."""
    module = types.ModuleType("PyTorchUtils", pytorch_utils.__doc__)
    module.installed = True

    class PyTorchUtilsLogic:
        """The functions a module uses to have torch installed."""

        @staticmethod
        def torchInstalled():
            """Whether torch is there."""
            return module.installed

        @staticmethod
        def installTorch(askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None, **options):
            """Recorded; torch counts as installed afterwards."""
            log.append(("installTorch", torchVersionRequirement, {"askConfirmation": askConfirmation, **options}))
            module.installed = True
            return True

        @staticmethod
        def uninstallTorch(askConfirmation=False, **_):
            """Recorded; torch counts as absent afterwards."""
            log.append(("uninstallTorch", None, {"askConfirmation": askConfirmation}))
            module.installed = False

    module.PyTorchUtilsLogic = PyTorchUtilsLogic
    return module

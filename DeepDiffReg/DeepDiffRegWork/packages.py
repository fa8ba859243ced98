"""Python packages of the worker: what is there, what is missing, how it is installed. Nothing here runs by itself."""

import functools
import pathlib
import shutil
import subprocess
import sys
import time
from importlib import metadata

import slicer
from slicer.i18n import tr as _

TORCH = "torch"
TORCH_VERSION = ">=2.6"
KEEP = ["SimpleITK", "torch", "numpy", "vtk"]
"""Never replaced by pip: Slicer's own builds, and torch, which PyTorchUtils chooses to suit the graphics card."""


class PackageError(RuntimeError):
    """A package cannot be installed; the message says what to do."""


def requirements():
    """What pip may install, from ``Resources/requirements.txt``: ``["numba>=0.61", ...]``."""
    path = pathlib.Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def nameOf(requirement):
    """``numba`` of ``numba>=0.61``."""
    return requirement.partition(">")[0].strip()


def installedVersion(name):
    """Version of an installed package without importing it, or an empty text."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def listing():
    """Rows of (name, installed version or empty text, what is needed)."""
    rows = [(TORCH, installedVersion(TORCH), TORCH_VERSION)]
    for requirement in requirements():
        name = nameOf(requirement)
        rows.append((name, installedVersion(name), requirement[len(name) :]))
    return rows


def _number(text):
    digits = "".join(c if c.isdigit() else " " for c in text.partition("+")[0]).split()
    return tuple(int(d) for d in digits[:3])


def satisfied(version, needed):
    """Whether an installed version text meets ``>=x.y``; numbers are compared, suffixes are not."""
    return bool(version) and _number(version) >= _number(needed)


@functools.lru_cache(maxsize=1)
def missing():
    """Names of the packages that are absent or too old; looked up once, and again after ``missing.cache_clear()``."""
    return [name for name, version, needed in listing() if not satisfied(version, needed)]


def install():
    """Install what is missing, on the user's word only. Raises PackageError with what to do when it cannot."""
    names = missing()
    if TORCH in names:
        _installTorch()
    wanted = [r for r in requirements() if nameOf(r) in names]
    if wanted:
        _installWithPip(wanted)
    missing.cache_clear()


def _installTorch():
    try:
        import PyTorchUtils
    except ModuleNotFoundError as error:
        raise PackageError(
            _("torch is installed by the PyTorch extension: install it in the Extensions Manager and restart Slicer.")
        ) from error
    torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=TORCH_VERSION)
    if torch is None:
        raise PackageError(_("torch was not installed; the Python console says why."))


def _installWithPip(wanted):
    try:
        from slicer.packaging import pip_ensure
    except ImportError:
        # Slicer up to 5.10. Naming the numpy that is there keeps pip from exchanging it under the running program.
        slicer.util.pip_install([*wanted, f"numpy=={metadata.version('numpy')}"])
        return
    from packaging.requirements import Requirement

    pip_ensure(
        [Requirement(text) for text in wanted], skip_packages=KEEP, prompt_install=False, requester="DeepDiffReg"
    )


def pythonExecutable():
    """The interpreter of the worker: Slicer's own console Python, or this one outside of Slicer."""
    return shutil.which("PythonSlicer") or sys.executable


def runPython(code, *arguments):
    """Run Python code in a process of its own, the application staying usable; returns what went wrong, or nothing."""
    from DeepDiffRegLib.interactive.process import worker_environment

    hidden = {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {}
    process = subprocess.Popen(
        [pythonExecutable(), "-c", code, *arguments],
        env=worker_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **hidden,
    )  # fmt: skip
    while process.poll() is None:
        slicer.app.processEvents()
        time.sleep(0.05)
    errors = process.stderr.read().decode(errors="replace").strip()
    process.stderr.close()
    return (errors or _("exit code {code}").format(code=process.returncode)) if process.returncode else ""


def workingFolder():
    """Where the worker's temporary array files lie: Slicer's own temporary folder, which Slicer empties."""
    return pathlib.Path(slicer.app.temporaryPath)


def downloadsFolder():
    """Folder of everything that this module stores on the computer (sample scans), inside Slicer's own cache."""
    manager = slicer.mrmlScene.GetCacheManager()
    root = manager.GetRemoteCacheDirectory() if manager is not None else ""
    return pathlib.Path(root or slicer.app.temporaryPath) / "DeepDiffReg"


def downloadsSizeMb():
    """Megabytes in that folder."""
    folder = downloadsFolder()
    if not folder.is_dir():
        return 0.0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def removeDownloads():
    """Delete that folder; loaded nodes stay in the scene."""
    shutil.rmtree(downloadsFolder(), ignore_errors=True)

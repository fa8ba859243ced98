"""A training from its configuration to the model file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.atomic import write_aside
from ..errors import ConfigError, InputError
from ..networks import FEATURES, NETWORKS
from ..networks.base import Stored
from ..networks.weights import ModelCard, save_model
from ..progress import Progress
from .checkpoint import has_checkpoint
from .config import TrainingConfig
from .dataset import PairSource
from .devices import first_process, make_fabric
from .feature_task import FeatureTask, check_features
from .loop import Fitted, fit
from .network_choice import make_network
from .preparation import Prepared, prepare
from .scans import ScanList, list_scans
from .synthetic import ONLY_GENERATED
from .tasks import DrawnTask, PairTask, Term, make_terms, prior_of
from .validation import judged, judged_maps

CONFIG, MODEL, CACHE = "config.json", "model.safetensors", "cache"
MAY_CHANGE = ("device", "devices", "log_every", "checkpoint_every", "patience", "tensorboard", "accumulate", "steps")
"""Of ``optimization``: what a resumed training may do otherwise (the loop refuses other steps where the decay needs them)."""


@dataclass(frozen=True)
class Trained:
    """model: the file that was written (None when cancelled). card: beside it."""

    fitted: Fitted
    model: Path | None
    card: ModelCard | None


def train(
    config: TrainingConfig, outdir: str | Path, progress: Progress | None = None, resume: bool = False
) -> Trained:
    """Prepare the scans, train, and write ``model.safetensors`` with its card into ``outdir``.

    Everything that can be checked is checked before the first scan is opened. ``outdir`` also receives the checkpoints, the
    history and the cache of prepared scans. resume: continue what was stopped there, with the same configuration.
    """
    progress, outdir = progress or Progress(), Path(outdir)
    make_fabric(config.optimization)
    network = make_network(config.network, config.optimization.seed)
    terms = make_terms(config.losses, network)
    check_fit(config, network, terms)
    needs = {key for term in terms for key in term.loss.needs}
    labels, surfaces = "fixed_labels" in needs, "fixed_points" in needs
    scans = list_scans(config.data, config.optimization.seed, labels, surfaces)
    check_folder(config, outdir, resume)
    prepared = prepare(scans, config.data, outdir / CACHE, progress, surfaces, network.architecture.ndim)
    source = PairSource(prepared, scans, config.data, config.augmentation, config.optimization.seed, labels, surfaces)
    task = _task(config, network, terms, source, prepared)
    started = resume and has_checkpoint(outdir)  # killed before the first checkpoint, it starts from the first step
    fitted = fit(task, config.optimization, progress, outdir, started)
    if progress.cancelled():
        return Trained(fitted, None, None)
    card = make_card(config, terms, scans, prepared, fitted)
    if first_process():
        card = save_model(outdir / MODEL, fitted.network, card)
    return Trained(fitted, outdir / MODEL, card)


def check_fit(config: TrainingConfig, network: Stored, terms: tuple[Term, ...]) -> None:
    """Refuse choices that contradict each other."""
    for term in terms:
        if unknown := [key for key in term.loss.needs if key in ONLY_GENERATED]:
            raise ConfigError(
                f"loss {term.name!r} needs {' and '.join(unknown)}, which only generated pairs have: train with a recipe"
            )
    surfaces = any(term.name == "surface" for term in terms)
    if surfaces and (config.augmentation.moves or config.data.patch):
        raise ConfigError("loss 'surface' allows neither patches nor augmentation by rotation, scale or shift")
    if config.data.patch is not None and not network.local_reach:
        raise ConfigError(f"data.patch: a {config.network.name} needs whole scans, its lengths are shares of the grid")
    if config.network.looks > 1 and any(term.name == "kl" for term in terms):
        raise ConfigError("network.looks: a velocity drawn for the loss 'kl' is looked at once; set looks to 1")
    patch, whole = config.data.patch, network.multiple
    if patch is not None and (len(patch) != network.architecture.ndim or any(n % whole or n <= 0 for n in patch)):
        raise ConfigError(f"data.patch must be multiples of {whole}, one per axis, got {patch}")
    options = config.optimization
    if options.patience and not options.validate_every:
        raise ConfigError("optimization.patience needs validate_every: early stop is decided by validation")
    if config.data.batch % options.devices:
        raise ConfigError(f"data.batch must be a multiple of {options.devices} devices, got {config.data.batch}")
    if config.network.name in FEATURES:
        check_features(network, terms, config.layer, config.curriculum)


def make_card(
    config: TrainingConfig, terms: tuple[Term, ...], scans: ScanList, prepared: Prepared, fitted: Fitted
) -> ModelCard:
    """What the model is, what it saw and how well it does."""
    data, held_out = config.data, len(scans.of("validation"))
    about = data.description or "the user's own scans"
    seen = f"{about}; {len(scans.of('train'))} scans trained on, {held_out} held out, mode {data.mode}"
    losses = ", ".join(f"{t.name} x {t.weight:g}" for t in terms)
    notes = [f"{fitted.step} steps of {data.batch} pairs; losses {losses}", *fitted.notes]
    if config.layer is not None:
        iterations = " ".join(map(str, config.layer.iterations))
        notes.insert(
            1,
            f"through the solver with transform {config.layer.transform.name}, {iterations} iterations, coarse to fine",
        )
    return ModelCard(
        config.network.name,
        {},
        config.licence,
        seen,
        prepared.grid,
        data.intensities,
        {**fitted.metrics, "steps": float(fitted.step), "training_seconds": fitted.seconds},
        config.optimization.seed,
        prior_of(terms, len(prepared.grid.size)),
        "; ".join(notes),
        looks=config.network.looks,
    )


def _task(
    config: TrainingConfig, network: Stored, terms: tuple[Term, ...], source: PairSource, prepared: Prepared
) -> DrawnTask:
    patch = None if config.data.patch is None else config.data.patch[::-1]
    make = next(make for table, make in TASKS if config.network.name in table)
    return make(config, network, terms, source, prepared.grid.spacing_mm, patch)


def _pair_task(config: TrainingConfig, network, terms, source: PairSource, spacing_mm, patch) -> PairTask:
    chosen = config.network
    ways = (chosen.integrator, chosen.integration_steps)

    def validate() -> dict[str, float]:
        return judged(network, source.held_out(), spacing_mm, *ways, chosen.looks) if source.held_out_numbers() else {}

    return PairTask(
        network,
        terms,
        source,
        validate,
        config.optimization.seed,
        *ways,
        patch,
        spacing_mm,
        chosen.looks,
        chosen.looks_from,
    )


def _feature_task(config: TrainingConfig, network, terms, source: PairSource, spacing_mm, patch) -> FeatureTask:
    def validate() -> dict[str, float]:
        device = next(network.parameters()).device
        return judged_maps(task.found, source.held_out(), spacing_mm, device) if source.held_out_numbers() else {}

    options, seed = config.curriculum, config.optimization.seed
    task = FeatureTask(
        network, terms, source, config.layer, validate, seed, options.joins, options.one_sided, options.gradual, options.clamp,
        spacing_mm, patch,
    )  # fmt: skip
    return task


TASKS = ((NETWORKS, _pair_task), (FEATURES, _feature_task))
"""How networks of a table are trained."""


def check_folder(config: Any, outdir: Path, resume: bool) -> None:
    """Write the configuration into a new folder, or compare it with that of the run to be resumed."""
    if not first_process():
        return
    path = outdir / CONFIG
    if not resume:
        if outdir.is_dir() and any(outdir.iterdir()):
            hint = "; --resume continues the training there" if (outdir / CONFIG).exists() else ""
            raise InputError(f"output folder {outdir} is not empty{hint}")
        try:
            outdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output folder {outdir}: {error.strerror or error}") from error
        with write_aside(path) as aside:
            aside.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        return
    if not path.is_file():
        raise InputError(f"{path} is missing: there is no training to resume in {outdir}")
    before, now = json.loads(path.read_text(encoding="utf-8")), config.to_dict()
    for values in (before, now):
        for name in MAY_CHANGE:
            values["optimization"].pop(name, None)
    different = [name for name in now if before.get(name) != now[name]]
    if different:
        name = _first_difference(before.get(different[0]), now[different[0]], different[0])
        raise ConfigError(f"{path}: the training to resume had another {name}; keep it, or train into another folder")


def _first_difference(before: Any, now: Any, name: str) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in now:
            if before.get(key) != now[key]:
                return _first_difference(before.get(key), now[key], f"{name}.{key}")
    return name

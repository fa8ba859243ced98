"""The scans, made ready once, and the levels built from them: what start and deformable stage both descend on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .config import Choice, Config
from .data.pair import Pair, Prompts
from .descent import Level
from .geometry.grid import Geometry
from .geometry.pyramid import Pyramid, level_geometry, resample
from .preprocess.intensity import normalized
from .preprocess.region import Region, cut_faces, foreground_box_mm, solving_region
from .prompts.base import SCANS, ImageTerm
from .prompts.labels import LabelPrompt
from .prompts.masks import MaskPrompt
from .prompts.proposals import Views
from .regularization import REGULARIZERS
from .similarity import SIMILARITIES
from .similarity.base import Similarity

TOWARDS_FINER = 2 / 3
"""0: levels follow the fixed scan's voxels, 1: the finer scan's."""
REFINE = 3.0
CONTINUED_MM = 10.0
"""A scan cut through anatomy is continued this far by its border values, then unknown (weight 0). Weight 0 right at the border
would let the field drop whatever does not fit by pushing it out of view."""
REACH_MM = 30.0
"""Descriptors of the moving scan are computed this far around the place where the start puts the fixed grid."""
VIEWS = "views"
COARSE_FACTOR = 2.0
"""Levels at this down-sampling and above use the wide form of label terms."""


@dataclass(frozen=True)
class Problem:
    """Normalized scans with masks. fixed, moving: (1, 1, *shape) in [0, 1] on their own grids.

    features: images of both scans (fixed, moving) that are compared instead of them, equally many. cache: what was computed from
    the scans alone and serves again when prompts or transform change.
    """

    pair: Pair
    fixed: torch.Tensor
    moving: torch.Tensor
    device: torch.device
    masks: MaskPrompt = field(default_factory=MaskPrompt)
    features: tuple[Pyramid, Pyramid] | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def prepare(cls, pair: Pair, config: Config, device: torch.device) -> Problem:
        """Normalize both scans; the originals stay untouched."""
        fixed, moving = (normalized(image, config.preprocess).to(device) for image in (pair.fixed, pair.moving))
        return cls(pair, fixed, moving, device, cls.masks_of(pair.prompts))

    @staticmethod
    def masks_of(prompts: Prompts) -> MaskPrompt:
        """The masks among the prompts."""
        return MaskPrompt(prompts.fixed_mask, prompts.moving_mask)

    @cached_property
    def moving_is_cut(self) -> bool:
        """Whether the moving field of view cuts through anatomy, so that beyond it nothing is known."""
        return bool(cut_faces(self.moving))

    @cached_property
    def fixed_box_mm(self) -> np.ndarray:
        return foreground_box_mm(self.fixed, self.pair.fixed.geometry)

    @cached_property
    def moving_box_mm(self) -> np.ndarray:
        return foreground_box_mm(self.moving, self.pair.moving.geometry)

    def region(self, world: np.ndarray, config: Config) -> Region:
        """The box that the deformable stage is solved on: both anatomies and all landmarks, in fixed space."""
        geometry = self.pair.fixed.geometry
        if not config.preprocess.crop:
            points = geometry.to_world(np.stack([np.zeros(geometry.ndim), np.array(geometry.size) - 1]))
            return solving_region(self.fixed, geometry, points, 0.0)
        back = np.linalg.inv(world)
        moved = self.moving_box_mm @ back[:-1, :-1].T + back[:-1, -1]
        points = [self.fixed_box_mm, moved]
        if self.pair.prompts.landmarks is not None:
            points.append(self.pair.prompts.landmarks.fixed.positions_mm)
        return solving_region(self.fixed, geometry, np.concatenate(points), config.preprocess.margin_mm)

    def level(
        self,
        box: Geometry,
        factor: float,
        iterations: int,
        world: np.ndarray,
        similarity: Choice,
        minimum_size: int = 16,
        regularization: tuple[Choice, ...] = (),
        labels: LabelPrompt | None = None,
        half: bool = False,
        further: tuple[Choice, ...] = (),
    ) -> Level:
        """Everything one level compares: the scans, then label pairs. box: the part of the fixed grid that is solved.

        half: keep features that are compared channel by channel in half precision. further: compared beside ``similarity``, always
        the scans themselves.
        """
        grids = self.level_geometries(box, factor, minimum_size)
        terms = [self._term(SCANS, similarity, grids, world, half)] if similarity.weight else []
        plain = replace(self, features=None)
        for number, choice in enumerate(further):
            name = f"{SCANS}: {choice.name}" + (f" {number + 1}" if number else "")
            terms.append(replace(plain._term(name, choice, grids, world, half), group=name))
        if labels is not None:
            terms += [self._on_device(t) for t in labels.terms(*grids, factor >= COARSE_FACTOR)]
        regularizers = [(c.weight, REGULARIZERS.build(c.name, **c.options)) for c in regularization]
        return Level(grids[0], terms, iterations, world, regularizers)

    def _term(
        self, name: str, similarity: Choice, grids: tuple[Geometry, Geometry], world: np.ndarray, half: bool
    ) -> ImageTerm:
        """Both scans as one similarity compares them on the grids of a level (fixed, moving)."""
        fixed_geometry, moving_geometry = grids
        measure = SIMILARITIES.build(similarity.name, **similarity.options)
        fixed, moving = self._compared(fixed_geometry, moving_geometry)
        unknown_beyond = self.moving_is_cut or measure.oriented or self.features is not None
        if unknown_beyond:
            moving, moving_geometry = continued(moving, moving_geometry, CONTINUED_MM)
        seen = self.masks.moving_weight(moving_geometry)
        if seen is None and unknown_beyond:
            seen = moving.new_ones((1, 1, *moving_geometry.shape))
        if measure.oriented:
            parallel = parallel_grid(moving_geometry, fixed_geometry, world)
            seen = resample(seen, moving_geometry, parallel, "zeros", blur=False)
            moving, moving_geometry = resample(moving, moving_geometry, parallel, blur=False), parallel
        dtype = torch.float16 if half and has_half(similarity, self.features is not None) else None
        return ImageTerm(
            name,
            measure.laid_out(measure.features(fixed, fixed_geometry.spacing_mm, dtype)),
            measure.laid_out(measure.features(moving, moving_geometry.spacing_mm, dtype)),
            moving_geometry,
            measure,
            similarity.weight,
            self.masks.fixed_weight(fixed_geometry),
            seen,
        )

    def _compared(self, fixed: Geometry, moving: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
        """The channels of both scans on the grids of a level: of one resolution of the features, or the scans themselves."""
        own = [
            ((scan, image.geometry),)
            for scan, image in zip((self.fixed, self.moving), (self.pair.fixed, self.pair.moving))
        ]
        of_fixed, of_moving = self.features or map(Pyramid, own)
        number = of_fixed.serving(fixed)
        return of_fixed.on(fixed, number), of_moving.on(moving, number)

    def views(self, learned: tuple[Pyramid, Pyramid] | None = None) -> Views:
        """The scans as landmarks are proposed from them, by ``learned`` features where given; kept while scans and masks stay."""
        kept, made_of = self.cache.get(VIEWS), (learned, self.masks.fixed, self.masks.moving)
        if kept is None or any(a is not b for a, b in zip(kept[0], made_of)):
            grids = self.pair.fixed.geometry, self.pair.moving.geometry
            weights = self.masks.fixed_weight(grids[0]), self.masks.moving_weight(grids[1])
            seen = tuple(None if weight is None else (weight, grid) for weight, grid in zip(weights, grids))
            scans = tuple(zip((self.fixed, self.moving), grids))
            kept = self.cache[VIEWS] = made_of, Views.of(scans, self.working_spacing_mm, learned, seen)
        return kept[1]

    @property
    def working_spacing_mm(self) -> float:
        """Voxel size at factor 1 (``working_spacing_mm`` of the pair)."""
        return working_spacing_mm(self.pair)

    def level_geometries(self, box: Geometry, factor: float, minimum_size: int) -> tuple[Geometry, Geometry]:
        """Both scans' grids of a level: about the same spacing in mm on all axes.

        Thick fixed slices are refined (``REFINE`` at most); the moving scan is never, so it is sampled from its own voxels.
        """
        spacing = factor * self.working_spacing_mm
        fixed = level_geometry(box, spacing, minimum_size, REFINE)
        return fixed, level_geometry(self.pair.moving.geometry, spacing, minimum_size)

    def _on_device(self, term: ImageTerm) -> ImageTerm:
        tensors = {name: getattr(term, name) for name in ("fixed", "moving", "fixed_weight", "moving_weight")}
        return replace(term, **{name: t if t is None else t.to(self.device) for name, t in tensors.items()})


def has_half(similarity: Choice, learned: bool = False) -> bool:
    """Whether what this similarity compares may be kept in half precision: descriptors or learned features, one by one.

    Scans themselves may not: steps of 1/1000 of their range would be seen by windowed correlation.
    """
    measure = SIMILARITIES.load(similarity.name)
    return measure.separable and (learned or measure.features is not Similarity.features)


def working_spacing_mm(pair: Pair) -> float:
    """Voxel size at factor 1: the fixed scan's finest, or nearer the moving scan's when that is finer.

    On voxels of a coarse fixed scan, detail that only the moving scan resolves would be lost.
    """
    fixed, moving = (min(image.geometry.spacing_mm) for image in (pair.fixed, pair.moving))
    return float(fixed * min(1.0, moving / fixed) ** TOWARDS_FINER)


def working_voxels(pair: Pair) -> int:
    """Voxels of the level of factor 1 on the whole fixed scan: what memory is planned for."""
    return level_geometry(pair.fixed.geometry, working_spacing_mm(pair), refine=REFINE).voxels


def continued(scan: torch.Tensor, geometry: Geometry, margin_mm: float) -> tuple[torch.Tensor, Geometry]:
    """The scan (1, C, *shape) grown by ``margin_mm`` on all sides with its border values, and the grown grid."""
    margin = [int(np.ceil(margin_mm / h)) for h in geometry.spacing_mm]
    size = tuple(n + 2 * m for n, m in zip(geometry.size, margin))
    grown = torch.nn.functional.pad(scan, [m for m in margin for _ in (0, 1)], mode="replicate")
    return grown, geometry.cropped([-m for m in margin], size)


def parallel_grid(moving: Geometry, fixed: Geometry, world: np.ndarray) -> Geometry:
    """A grid over ``moving`` whose axes are those of ``fixed`` after the rotation in ``world``, with its spacing.

    Descriptors of both scans then look into the same anatomical directions, whatever way each was scanned. The grid ends
    ``REACH_MM`` beyond where the start puts the fixed one.
    """
    left, _, right = np.linalg.svd(world[:-1, :-1] @ fixed.rotation)
    axes, spacing = left @ right, np.array(fixed.spacing_mm)
    corners = corners_mm(moving) @ axes
    reached = (corners_mm(fixed) @ world[:-1, :-1].T + world[:-1, -1]) @ axes
    low = np.maximum(corners.min(0), reached.min(0) - REACH_MM)
    high = np.minimum(corners.max(0), reached.max(0) + REACH_MM)
    size = np.maximum(np.ceil((high - low) / spacing - 1e-6), 2).astype(int)
    first = (low + high - (size - 1) * spacing) / 2
    return Geometry(tuple(int(n) for n in size), fixed.spacing_mm, tuple(axes @ first), axes.tolist())


def corners_mm(geometry: Geometry) -> np.ndarray:
    """Outer corners of the grid's border voxels, (2^d, d) mm."""
    return geometry.to_world(np.array(list(np.ndindex(*(2,) * geometry.ndim))) * np.array(geometry.size) - 0.5)

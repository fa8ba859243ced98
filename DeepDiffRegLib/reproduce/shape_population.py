"""What the experiments on synthetic shapes share: one registration of a pair of shapes, and what is measured on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..config import Choice, Config, Preprocess, Schedule, Start
from ..data.pair import Prompts
from ..data.shapes import FIELD_OF_VIEW_MM, ShapePair
from ..geometry.pyramid import resample
from ..geometry.sampling import identity_index, per_component, sample
from ..geometry.vector_fields import jacobian_determinant, strict_folds
from ..session import RegistrationSession
from ..transforms.composite import CompositeTransform
from ..transforms.shooting import ShootingTransform
from ..warp.image import warp_image

EDGE_MM = 3.0
"""How near an edge counts as near."""
LOWEST = 0.1
"""The share of pixels with the lowest sigma that is looked for near edges."""
AS_DRAWN = Preprocess(clip_percentiles=(0.0, 100.0), crop=False)
"""The whole picture, its least gray value at 0 and its largest at 1."""


def settings(transform: Choice, similarity: Choice, schedule: Schedule) -> Config:
    """A registration of shapes: no affine start, the whole picture, gray values as they are."""
    return Config(
        preprocess=AS_DRAWN,
        start=Start(initial="identity", transform="none"),
        transform=transform,
        similarity=similarity,
        schedule=schedule,
        device="cpu",
        threads=1,
    )


def levels(size: int, pixels: tuple[int, ...], iterations: tuple[int, ...]) -> Schedule:
    """Levels of about ``pixels`` pixels along each side of a picture of ``size``, never finer than the picture."""
    return Schedule(tuple(max(1.0, size / n) for n in pixels), iterations, tolerance=1e-5)


@dataclass(frozen=True)
class Registered:
    """One pair after its registration. displacement_mm: (1, 2, Y, X) on the fixed grid, of the whole map."""

    shapes: ShapePair
    flow: ShootingTransform
    displacement_mm: torch.Tensor
    warped_labels: np.ndarray

    @classmethod
    def run(cls, shapes: ShapePair, config: Config, prompts: Prompts | None = None) -> Registered:
        """Register the source (moving) with the target (fixed)."""
        session = RegistrationSession(replace(shapes.pair, prompts=prompts or Prompts()), config)
        transform = session.run()
        flow = transform.transforms[0] if isinstance(transform, CompositeTransform) else transform
        grid = shapes.pair.fixed.geometry
        labels = warp_image(shapes.moving_labels, transform, grid).numpy()
        return cls(shapes, flow, transform.displacement(grid), labels)

    def dice(self, *labels: int) -> float:
        """Overlap of the union of some labels."""
        fixed, warped = (np.isin(a, labels) for a in (self.shapes.fixed_labels.numpy(), self.warped_labels))
        return dice(fixed, warped)

    @property
    def length_mm(self) -> np.ndarray:
        """|u| at every pixel of the target."""
        return self.displacement_mm[0].norm(dim=0).numpy()

    @property
    def folds(self) -> int:
        """Pixels with a non-positive determinant in any corner, on the whole map at full resolution."""
        return strict_folds(self.displacement_mm, self.shapes.pair.fixed.geometry.spacing_mm)

    @property
    def warped(self) -> np.ndarray:
        """The source through the map."""
        image = self.shapes.pair.moving
        index = self.map_pixels
        return sample(image.tensor, index)[0, 0].numpy()

    @property
    def map_pixels(self) -> torch.Tensor:
        """phi in pixels of the (shared) grid, (1, 2, Y, X)."""
        u = self.displacement_mm
        spacing = per_component(self.shapes.pair.fixed.geometry.spacing_mm, u)
        return identity_index(tuple(u.shape[2:]), u.device, u.dtype) + u / spacing

    @property
    def determinant(self) -> np.ndarray:
        return jacobian_determinant(self.displacement_mm, self.shapes.pair.fixed.geometry.spacing_mm)[0, 0].numpy()

    def sigma_mm(self, time: float) -> np.ndarray:
        """Effective standard deviation at time 0 (on the source) or 1 (on the target), at every pixel."""
        grid = self.shapes.pair.fixed.geometry
        return resample(self.flow.sigma_mm(time), self.flow.geometry, grid)[0, 0].numpy()


@dataclass(frozen=True)
class View:
    """What figures show of a registration, as plain arrays: cheap to hand from one process to another.

    region: mask of the foreground with its inner objects, by role. map_pixels: (2, Y, X). sigma_mm: at t = 0 and t = 1.
    """

    source: np.ndarray
    target: np.ndarray
    region: dict[str, np.ndarray]
    warped: np.ndarray
    map_pixels: np.ndarray
    length_mm: np.ndarray
    determinant: np.ndarray
    sigma_mm: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, found: Registered) -> View:
        """Everything computed once."""
        pair = found.shapes.pair
        region = {role: found.shapes.region(role).numpy() > 0 for role in ("fixed", "moving")}
        return cls(
            pair.moving.numpy(), pair.fixed.numpy(), region, found.warped, found.map_pixels[0].numpy(), found.length_mm,
            found.determinant, (found.sigma_mm(0.0), found.sigma_mm(1.0)),
        )  # fmt: skip


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two masks; 1 when both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def near_edges(labels: np.ndarray) -> np.ndarray:
    """Pixels within ``EDGE_MM`` of a border between two labels."""
    from scipy.ndimage import distance_transform_edt

    inner = np.ones(labels.shape, bool)
    inner[1:] &= labels[1:] == labels[:-1]
    inner[:-1] &= labels[1:] == labels[:-1]
    inner[:, 1:] &= labels[:, 1:] == labels[:, :-1]
    inner[:, :-1] &= labels[:, 1:] == labels[:, :-1]
    pixel = FIELD_OF_VIEW_MM / labels.shape[0]
    return distance_transform_edt(inner, sampling=pixel) <= max(EDGE_MM, pixel)


def density_at_edges(sigma_mm: np.ndarray, labels: np.ndarray) -> float:
    """Share of the ``LOWEST`` sigma(x) that lies near edges, over the share of the picture that does (1: no concentration)."""
    near = near_edges(labels)
    return float(near[sigma_mm <= np.quantile(sigma_mm, LOWEST)].mean() / near.mean())

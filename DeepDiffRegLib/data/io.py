"""Every file a user brings or takes: images, landmarks, surfaces. The only place where RAS becomes LPS and back."""

from .io_image_writers import WRITABLE, write_image
from .io_images import READABLE, read_image
from .io_points import read_landmarks, read_points, write_points
from .io_surfaces import read_surface, surface_points, with_surface_points, write_surface

__all__ = [
    "READABLE",
    "WRITABLE",
    "read_image",
    "read_landmarks",
    "read_points",
    "read_surface",
    "surface_points",
    "with_surface_points",
    "write_image",
    "write_points",
    "write_surface",
]

"""The errors that the library raises on purpose, each with the exit status it means on the command line."""


class DeepDiffRegError(Exception):
    """Base of every deliberate error; the message is one line a user can act on."""

    exit_status = 4


class InputError(DeepDiffRegError, ValueError):
    """What came in cannot be used: a bad file, grid, label, option or configuration. Raised before any work."""

    exit_status = 2


class ConfigError(InputError):
    """An unknown or contradictory setting."""


class GeometryError(InputError):
    """A grid that cannot exist: zero spacing, oblique axes that are not orthogonal, one-voxel axes."""


class ShapeError(InputError):
    """A tensor of another shape than the function documents."""


class RegistrationError(DeepDiffRegError):
    """The registration failed while running."""


class OutOfMemoryError(RegistrationError):
    """Not enough memory, even after the stated fallbacks."""


class Cancelled(DeepDiffRegError):
    """The user asked to stop before a first usable result existed."""

    exit_status = 3

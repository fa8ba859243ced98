"""Annotations of a parameter: what it may be, what it is at first, how a widget shows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable


class Validator:
    """Base of all checks: ``validate(value)`` raises for a bad value."""

    def validate(self, value):
        raise NotImplementedError("validate")


class NotNone(Validator):
    """Refuses None."""

    def validate(self, value):
        if value is None:
            raise ValueError("Value must not be None")


class IsInstance(Validator):
    """Only instances of a class or of one of several classes."""

    def __init__(self, classtype):
        self.classtype = classtype

    def validate(self, value):
        if value is not None and not isinstance(value, self.classtype):
            raise TypeError(f"Value must be of type {self.classtype}, is {type(value)}: {value!r}")


@dataclasses.dataclass(frozen=True)
class Minimum(Validator):
    """Not below ``minimum``."""

    minimum: float

    def validate(self, value):
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


@dataclasses.dataclass(frozen=True)
class Maximum(Validator):
    """Not above ``maximum``."""

    maximum: float

    def validate(self, value):
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


@dataclasses.dataclass(frozen=True)
class WithinRange(Validator):
    """Between ``minimum`` and ``maximum``, both allowed."""

    minimum: float
    maximum: float

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within [{self.minimum}, {self.maximum}], is {value}")


class Choice(Validator):
    """One of the given values."""

    def __init__(self, choices: Iterable):
        self.choices = list(choices)

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is {value!r}")


class Exclude(Validator):
    """None of the given values."""

    def __init__(self, excluded: Iterable):
        self.excluded = list(excluded)

    def validate(self, value):
        if value in self.excluded:
            raise ValueError(f"Value must not be one of {self.excluded}, is {value!r}")


@dataclasses.dataclass
class FloatRange:
    """Two numbers, the lower one first."""

    minimum: float
    maximum: float

    def __post_init__(self):
        if self.minimum > self.maximum:
            raise ValueError(f"FloatRange: minimum {self.minimum} is above maximum {self.maximum}")


@dataclasses.dataclass(frozen=True)
class RangeBounds(Validator):
    """Limits for both ends of a FloatRange."""

    minimum: float
    maximum: float

    def validate(self, value):
        if value.minimum < self.minimum or value.maximum > self.maximum:
            raise ValueError(f"Range must be within [{self.minimum}, {self.maximum}], is {value}")


class Default:
    """The first value: a value or a function that makes it."""

    def __init__(self, value=None, *, generator=None):
        self.value, self.generator = value, generator

    def __call__(self):
        import copy

        return self.generator() if self.generator is not None else copy.deepcopy(self.value)


@dataclasses.dataclass(frozen=True)
class Decimals:
    """Digits a widget shows."""

    value: int


@dataclasses.dataclass(frozen=True)
class SingleStep:
    """Step of a widget."""

    value: float


def find(annotations, *kinds):
    """First annotation of these classes, or None."""
    return next((item for item in annotations if isinstance(item, kinds)), None)


def bounds(annotations) -> tuple:
    """(minimum or None, maximum or None) that the validators state."""
    both = find(annotations, WithinRange, RangeBounds)
    if both is not None:
        return both.minimum, both.maximum
    low, high = find(annotations, Minimum), find(annotations, Maximum)
    return (low.minimum if low else None), (high.maximum if high else None)

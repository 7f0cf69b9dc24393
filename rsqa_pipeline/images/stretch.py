"""Values of any type as 8 bit: a linear stretch between two percentiles of a band's valid values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DEFAULT_STRETCH = (2.0, 98.0)
_TINY = float(np.finfo(np.float32).tiny)
_FLOAT32_HOLDS = ("uint8", "int8", "uint16", "int16", "float16", "float32")


class NoFiniteValueError(ValueError):
    """Every value of a band is NaN or infinite."""


@dataclass(frozen=True)
class Limits:
    """The values of one band that become 0 and 255."""

    low: float
    high: float
    constant: int | None = None
    """The value shown, 0..255, where all of the band's values are the same."""


def as_float(values: np.ndarray) -> np.ndarray:
    """Complex values become their magnitude, others floats of enough precision."""
    if np.iscomplexobj(values):
        return np.abs(values).astype(np.float64)
    return values.astype(np.float32 if values.dtype.name in _FLOAT32_HOLDS else np.float64, copy=False)


def limits_of(values: np.ndarray, valid: np.ndarray, percentiles: tuple[float, float] | None) -> Limits:
    """The limits of a band.

    Args:
        values: the band as it is stored, any shape and type.
        valid: bool, same shape: which pixels have data.
        percentiles: those that become 0 and 255; None for `DEFAULT_STRETCH`.

    Raises:
        NoFiniteValueError: there are pixels with data, but none of them is finite.
    """
    numbers = as_float(values)[valid]
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        if numbers.size:
            raise NoFiniteValueError("no pixel has a finite value")
        return Limits(0.0, 0.0, constant=0)
    low, high = (float(limit) for limit in np.percentile(finite, percentiles or DEFAULT_STRETCH))
    if finite.min() == finite.max():
        # nothing to stretch: an unsigned value is shown at its share of the type's range
        unsigned = np.issubdtype(values.dtype, np.unsignedinteger)
        return Limits(low, high, constant=int(low * 255.0 / np.iinfo(values.dtype).max) if unsigned else 0)
    return Limits(low, high)


def to_uint8(values: np.ndarray, limits: Limits) -> np.ndarray:
    """The band stretched between its limits, same shape, uint8; values that are not finite become 0."""
    if limits.constant is not None:
        return np.full(values.shape, limits.constant, np.uint8)
    numbers = as_float(values)
    not_finite = ~np.isfinite(numbers)
    with np.errstate(over="ignore", invalid="ignore"):  # the range of float64 may exceed its greatest number
        scaled = numbers - limits.low
        scaled *= 255.0 / max(limits.high - limits.low, _TINY)
    np.rint(scaled, out=scaled)
    np.clip(scaled, 0, 255, out=scaled)
    scaled[not_finite | np.isnan(scaled)] = 0
    return scaled.astype(np.uint8)

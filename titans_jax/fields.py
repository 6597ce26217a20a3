"""One checked way to declare a field of a configuration, and to check an argument.

    @dataclasses.dataclass(frozen=True)
    class Settings:
        chunk: int = field(64, positive_int)

        def __post_init__(self) -> None:
            check_fields(self)

A check takes a name and a value, and returns the value as it is stored: any integer, NumPy's too, as an int, any real
number as a float. `Settings(chunk=0)` raises "chunk must be a positive integer, got 0". Checks serve arguments too:
``count = positive_int("count", count)``.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_args

import numpy as np

T = TypeVar("T")

#: (name of the field, value) -> the value to store; raises a `FieldError`.
Check = Callable[[str, Any], Any]


class FieldError(ValueError):
    """A value that does not fit: its field, the value and what would be right."""

    def __init__(self, field: str, value: object, wanted: str):
        super().__init__(field, value, wanted)  # as args, so that the error can be pickled
        self.field, self.value, self.wanted = field, value, wanted

    def __str__(self) -> str:
        return f"{self.field} must be {self.wanted}, got {self.value!r}"


def require(condition: bool, field: str, value: object, wanted: str) -> None:
    """Raises a `FieldError` that names the field, its value and what would be right."""
    if not condition:
        raise FieldError(field, value, wanted)


def field(default: T, check: Check) -> T:
    """A dataclass field with a default and a check, which `check_fields` applies."""
    return dataclasses.field(default=default, metadata={"check": check})


def check_fields(config: Any) -> None:
    """Checks all declared fields of a frozen dataclass and stores what the checks return.

    Args:
        config: instance of the dataclass; to be called in its ``__post_init__``.

    Raises:
        FieldError: naming the first field that does not fit.
    """
    for declared in dataclasses.fields(config):
        if "check" in declared.metadata:
            value = declared.metadata["check"](declared.name, getattr(config, declared.name))
            object.__setattr__(config, declared.name, value)


def check_divisors(name: str, values: Iterable[int], of: str, total: int) -> None:
    """Raises a `FieldError` at the first value that does not divide another field."""
    for value in values:
        require(total % value == 0, name, value, f"a divisor of {of} = {total}")


def whole(wanted: str, least: int, most: int | None = None) -> Check:
    """An integer, of Python, NumPy or JAX, but no bool; stored as an int.

    Args:
        wanted: what the message says would be right.
        least: the smallest.
        most: the largest; None for no bound.
    """

    def check(name: str, value: Any) -> int:
        try:
            number = None if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = None
        if number is None or number < least or (most is not None and number > most):
            raise FieldError(name, value, wanted)
        return number

    return check


def number(
    wanted: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> Check:
    """A finite real number, but no bool; stored as a float.

    Args:
        wanted: what the message says would be right.
        least: the smallest.
        above: a bound that is not reached.
        most: the largest.
        below: a bound that is not reached.
    """

    def check(name: str, value: Any) -> float:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        fits = real and math.isfinite(value) and least <= value <= most and above < value < below
        require(fits, name, value, wanted)
        return float(value)

    return check


def one_of(choices: Any) -> Check:
    """One of some names.

    Args:
        choices: a ``Literal`` of strings, or a collection of them.
    """
    names = tuple(get_args(choices) or choices)

    def check(name: str, value: Any) -> str:
        require(isinstance(value, str) and value in names, name, value, f"one of {names}")
        return str(value)

    return check


def optional(check: Check) -> Check:
    """What fits a check, or None."""

    def or_none(name: str, value: Any) -> Any:
        try:
            return None if value is None else check(name, value)
        except FieldError as error:
            raise FieldError(name, value, f"{error.wanted} or None") from None

    return or_none


def several(check: Check, *, least: int = 1, distinct: bool = False) -> Check:
    """Values of which each fits a check; stored as a tuple.

    Args:
        check: of each.
        least: how many there are at least.
        distinct: whether none may come twice.
    """

    def check_all(name: str, value: Any) -> tuple:
        iterable = isinstance(value, Iterable) and not isinstance(value, str | bytes)
        require(iterable, name, value, "a tuple")
        items = tuple(check(name, item) for item in value)
        require(len(items) >= least, name, value, f"not empty: {least} or more" if least else "")
        require(
            not distinct or len(set(items)) == len(items), name, value, "a tuple, no value twice"
        )
        return items

    return check_all


def instance_of(kind: type) -> Check:
    """Another configuration, of a class."""

    def check(name: str, value: Any) -> Any:
        require(isinstance(value, kind), name, value, f"a {kind.__name__}")
        return value

    return check


def flag(name: str, value: Any) -> bool:
    """True or False; stored as a bool."""
    require(isinstance(value, bool | np.bool_), name, value, "one of (True, False)")
    return bool(value)


def string(name: str, value: Any) -> str:
    """A string."""
    require(isinstance(value, str), name, value, "a string")
    return str(value)


def given(name: str, value: Any) -> str:
    """A string that is not empty: for what has no default."""
    require(isinstance(value, str) and bool(value), name, value, "a string that is not empty")
    return str(value)


positive_int = whole("a positive integer", 1)
non_negative_int = whole("an integer, 0 for none", 0)
#: What every random generator here takes.
random_seed = whole("an integer from 0 to 4294967295", 0, 2**32 - 1)
finite = number("a finite number")
positive = number("a positive, finite number", above=0)
non_negative = number("a finite number, 0 or more", least=0)
fraction = number("between 0 and 1", least=0, most=1)
below_one = number("in [0, 1)", least=0, below=1)
inside_unit = number("between 0 and 1, exclusive", above=0, below=1)

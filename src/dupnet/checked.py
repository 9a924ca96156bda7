"""From plain tables (TOML, JSON, checkpoints) to frozen dataclasses, every value checked against its field's type.

Specs and recipes are built here; what only makes sense for one of them (ranges, sums) its own `__post_init__` checks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dupnet.errors import SpecError


def build(kind: Any, table: object, *, where: str = "") -> Any:
    """An instance of the dataclass `kind`; tables for fields that are dataclasses themselves are built alike.

    Args:
        kind: a dataclass whose fields are bool, int, float, str, Literal, tuple, dict[str, ...] or such dataclasses.
        table: field names to values.
        where: what messages call the table, such as `[loss]`.

    Raises:
        SpecError: an unknown or missing key, or a value of the wrong type.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(table, dict):
        raise SpecError(f"{prefix}expected a table, found {table!r}")
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(str(key) for key in table if key not in known):
        raise SpecError(f"{prefix}unknown key {unknown[0]!r} (known: {', '.join(sorted(known))})")
    needed = [name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    if missing := [name for name in needed if name not in table]:
        raise SpecError(f"{prefix}needs {missing[0]!r}")
    hints = get_type_hints(kind)
    return kind(**{name: _fit(value, hints[name], where, name) for name, value in table.items()})


def choices(table: object, *, where: str) -> None:
    """Refuse a dataclass of which a `Literal` field holds none of its choices.

    Raises:
        SpecError: names the field.
    """
    for name, hint in get_type_hints(type(table)).items():
        if get_origin(hint) is Literal and getattr(table, name) not in get_args(hint):
            raise SpecError(f"{where}: {name} must be {_words(hint)}, not {getattr(table, name)!r}")


def not_negative(table: object, names: Iterable[str], *, where: str) -> None:
    """Refuse a dataclass of which one of these fields is below 0.

    Raises:
        SpecError: names the field.
    """
    for name in names:
        if getattr(table, name) < 0:
            raise SpecError(f"{where}: {name} must be at least 0, not {getattr(table, name)}")


def fractions(table: object, names: Iterable[str], *, where: str) -> None:
    """Refuse a dataclass of which one of these fields is below 0 or above 1.

    Raises:
        SpecError: names the field.
    """
    for name in names:
        if not 0 <= getattr(table, name) <= 1:
            raise SpecError(f"{where}: {name} must be in [0, 1], not {getattr(table, name)}")


def _fit(value: object, hint: Any, where: str, name: str) -> Any:
    """`value` as the type `hint`: lists become tuples, integers floats; anything else must have the type already."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:  # of dataclasses: the first that knows the keys
        kinds = [kind for kind in arguments if isinstance(value, kind)]
        kinds += [kind for kind in arguments if isinstance(value, dict) and value.keys() <= {field.name for field in fields(kind)}]
        hint = (kinds or arguments)[0]
    if isinstance(hint, type) and is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where=f"{where}[{name}]")
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is ...:
            return tuple(_fit(item, arguments[0], where, f"{name} {number}") for number, item in enumerate(value, 1))
        if len(value) == len(arguments):
            return tuple(_fit(item, one, where, name) for item, one in zip(value, arguments))
    elif origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _fit(item, arguments[1], where, f"{name}.{key}") for key, item in value.items()}
    elif origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
            return float(value)
    elif hint in (bool, int, str) and type(value) is hint:
        return value
    prefix = f"{where}: " if where else ""
    raise SpecError(f"{prefix}{name} must be {_words(hint)}, not {value!r}")


def _words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin is tuple:
        return "a list" if arguments[-1] is ... else f"a list of {len(arguments)} numbers"
    if origin is dict:
        return "a table of numbers"
    return {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}[hint]

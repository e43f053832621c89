"""Modules that are imported when they are first asked for."""

import importlib
from collections.abc import Iterable
from types import ModuleType

_TRAINED = ("jax", "equinox", "optax", "grain", "tensorstore", "orbax", "tokenizers", "jaxtyping")


def room(package: str, rooms: Iterable[str], name: str) -> ModuleType:
    """A module of a package, imported when it is asked for: the `__getattr__` of every wing."""
    if name not in rooms:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    try:
        return importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _TRAINED:
            raise
        from relscale.core import UserError

        raise UserError(
            f"{package}.{name} needs {error.name}, which is not installed: pip install 'relscale[train]'"
        ) from None

"""What will be trained and what it costs: shapes, FLOPs, recipes, device-hours, fleets. No JAX."""

from relscale import _room

__all__ = [
    "spec",
    "flops",
    "recipes",
    "cost",
    "fleet",
]


def __getattr__(name: str) -> object:
    return _room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

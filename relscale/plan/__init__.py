"""What will be trained and what it costs: shapes, FLOPs, recipes, device-hours, fleets. No JAX."""

from relscale._lazy import room

__all__ = [
    "spec",
    "flops",
    "claims",
    "recipes",
    "chips",
    "cost",
    "fleet",
    "simulation",
    "comparison",
]


def __getattr__(name: str) -> object:
    return room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Tables to laws: intervals, IsoFLOP optima, curves, relative laws, forecasts, power. Never JAX."""

from relscale._lazy import room

__all__ = [
    "lines",
    "intervals",
    "goodness",
    "simulate",
    "solver",
    "beyond",
    "curves",
    "multiplier",
    "profiles",
    "optima",
    "isoflop",
    "frontiers",
    "surface",
    "floors",
    "mixed",
    "pairing",
    "estimates",
    "influence",
    "relative",
    "stages",
    "conformal",
    "forecast",
    "backtests",
    "shape",
    "power",
    "drift",
    "diagnosis",
    "contrasts",
    "floored_ratios",
    "formats",
    "calibration",
    "tokens_and_size",
    "speedups",
    "recipes_apart",
    "recipe_pairs",
    "recipes",
    "hero",
    "item_tables",
    "item_gaps",
    "compatible",
    "held_out",
    "audit",
]


def __getattr__(name: str) -> object:
    return room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Tables to laws: intervals, IsoFLOP optima, curves, relative laws, forecasts, power. Never JAX."""

from relscale._lazy import room

__all__ = [
    "lines",
    "intervals",
    "simulate",
    "isoflop",
    "frontiers",
    "solver",
    "curves",
    "surface",
    "relative",
    "stages",
    "forecast",
    "backtests",
    "shape",
    "power",
    "diagnosis",
    "contrasts",
    "formats",
    "calibration",
    "multiplier",
]


def __getattr__(name: str) -> object:
    return room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

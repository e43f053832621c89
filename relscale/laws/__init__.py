"""Tables to laws: intervals, IsoFLOP optima, curves, relative laws, forecasts, power. Never JAX."""

from relscale import _room

__all__ = [
    "lines",
    "parabolas",
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
]


def __getattr__(name: str) -> object:
    return _room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""A plan into tables, on one machine or many: store, leases, executors, driver, status."""

from relscale import _room

__all__ = [
    "store",
    "leases",
    "workers",
    "clusters",
    "ray_dask",
    "executors",
    "attempts",
    "driver",
    "suite",
    "multihost",
    "status",
]


def __getattr__(name: str) -> object:
    return _room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

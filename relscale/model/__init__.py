"""A decoder and its training: optimizers, meshes, checkpoints, Hugging Face folders in and out."""

from relscale import _room

__all__ = [
    "decoder",
    "optim",
    "mesh",
    "checkpoints",
    "training",
    "callbacks",
    "hub",
    "open",
]


def __getattr__(name: str) -> object:
    return _room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

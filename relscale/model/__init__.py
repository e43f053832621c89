"""A decoder and its training: optimizers, meshes, checkpoints, Hugging Face folders in and out."""

from relscale._lazy import room

__all__ = [
    "attention",
    "decoder",
    "loss",
    "optim",
    "mesh",
    "checkpoints",
    "training",
    "callbacks",
    "hf_config",
    "hub",
    "gguf",
    "gguf_tokenizer",
    "open",
    "compiled",
    "preflight",
]


def __getattr__(name: str) -> object:
    return room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""A model on texts and questions: KV cache, log-likelihoods, bits per byte, tasks."""

from relscale._lazy import room

__all__ = [
    "kv_cache",
    "prefix_tree",
    "requests",
    "likelihoods",
    "windows",
    "bits",
    "inspection",
    "groups",
    "ice",
    "items",
    "data_sets",
    "prompts",
    "tasks",
    "evaluation",
    "checkpoints",
    "harness",
    "byte_kinds",
]


def __getattr__(name: str) -> object:
    return room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Documents to batches: sources, corpora kept apart, tokenizers, token stores."""

from relscale import _room

__all__ = [
    "documents",
    "embedded",
    "sources",
    "corpora",
    "tokenizer",
    "tokens",
]


def __getattr__(name: str) -> object:
    return _room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Documents to batches: sources, corpora kept apart, tokenizers, token stores."""

from relscale._lazy import room

__all__ = [
    "documents",
    "embedded",
    "rows",
    "sources",
    "corpora",
    "tokenizer",
    "tokens",
    "shards",
    "batches",
]


def __getattr__(name: str) -> object:
    return room(__name__, __all__, name)


def __dir__() -> list[str]:
    return sorted(__all__)

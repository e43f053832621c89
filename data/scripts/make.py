"""Letters per word of scripts without spaces, and shares of contaminated documents by language; writes the tables beside it.

python data/scripts/make.py [--locale /usr/share/locale]   (half a minute)
"""

import argparse
import gettext
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import regex

from relscale.text.documents import MOST_CONTAMINATED, Document, contaminated_fractions

HERE = Path(__file__).parent
UNSPACED = ("ja", "zh_CN", "zh_TW", "th", "km", "my")
LANGUAGES = (
    *("de", "fr", "es", "pl", "fi", "tr", "vi", "ru", "uk", "bg", "el", "ka", "ko", "ar", "he"),
    *("hi", "ta", "bn"),
    *UNSPACED,
)
MESSAGES = 40  # of a document
SHORTEST = 20  # characters of a translation

WORD = regex.compile(r"\w+")
IDEOGRAPH = regex.compile(r"\p{Han}")
LETTER = regex.compile(r"[\p{Hiragana}\p{Katakana}ー\p{Line_Break=SA}]\p{M}*", regex.V1)
SPACED = regex.compile(r"[\w--[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Line_Break=SA}]]+", regex.V1)


def messages(folder: Path) -> Iterator[list[tuple[str, str]]]:
    """Pairs of English and translation, by catalogue."""
    for path in sorted(folder.glob("LC_MESSAGES/*.mo")):
        try:
            with open(path, "rb") as file:
                catalogue = gettext.GNUTranslations(file)._catalog
        except (OSError, UnicodeDecodeError, ValueError):
            continue
        pairs = sorted((k, v) for k, v in catalogue.items() if isinstance(k, str) and k)
        yield [(k, v) for k, v in pairs if len(v) > SHORTEST]


def letters(language: str, folder: Path) -> dict:
    """Least squares of English words on what the translation is made of."""
    pairs = [pair for found in messages(folder) for pair in found if pair[0] != pair[1]]
    words = np.array([len(WORD.findall(english)) for english, _ in pairs], float)
    parts = np.array(
        [[len(p.findall(text)) for p in (SPACED, IDEOGRAPH, LETTER)] for _, text in pairs], float
    )
    used = parts.sum(axis=0) > 0.03 * parts.sum()
    weights = np.linalg.lstsq(parts[:, used], words, rcond=None)[0]
    per_word = np.full(3, np.nan)
    per_word[used] = 1 / weights
    return {
        "language": language,
        "messages": len(pairs),
        "english_words": int(words.sum()),
        "ideographs_per_word": per_word[1],
        "letters_per_word": per_word[2],
    }


def shared_runs(language: str, folder: Path) -> dict:
    """Share of contaminated documents among the originals and among the translations."""
    documents = []
    for pairs in messages(folder):
        for at in range(0, len(pairs) - MESSAGES + 1, MESSAGES):
            sides = zip(*pairs[at : at + MESSAGES], strict=True)
            documents.append([Document(language, str(len(documents)), "\n".join(s)) for s in sides])
    row = {"language": language, "candidates": len(documents[::2])}
    for side, name in enumerate(("english", "translated")):
        texts = [pair[side] for pair in documents]
        fractions = contaminated_fractions(texts[::2], texts[1::2])
        row[name] = float((fractions > MOST_CONTAMINATED).mean())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--locale", type=Path, default=Path("/usr/share/locale"))
    root = parser.parse_args().locale
    tables = {
        "letters": [letters(language, root / language) for language in UNSPACED],
        "shared_runs": [shared_runs(language, root / language) for language in LANGUAGES],
    }
    for name, rows in tables.items():
        table = pd.DataFrame(rows)
        table.round(4).to_csv(HERE / f"{name}.csv", index=False, lineterminator="\n")
        print(table.to_string(index=False))


if __name__ == "__main__":
    main()

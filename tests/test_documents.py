"""Documents: duplicates, pieces, contamination and the split, on real and made-up text."""

import contextlib
import gettext
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscale.core import UserError
from relscale.text import documents as rd
from relscale.text.documents import Document
from relscale.text.sources import load_domain


@pytest.fixture(scope="module")
def chapters():
    return load_domain("bible")


@pytest.fixture(scope="module")
def licences():
    return load_domain("licences", max_bytes=800_000)


def test_import_is_light():
    """Nothing but numpy: not even the chapter that reads the sources."""
    heavy = "{'jax', 'tokenizers', 'pandas', 'matplotlib', 'relscale.text.sources'}"
    code = f"import sys, relscale.text.documents; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- duplicates ------------------------------------------------------------------------------------


def test_minhash_finds_what_comparing_all_pairs_finds(licences):
    """Bands miss a pair at the threshold with probability 0.4%, so at most 2% of the kept may differ."""
    words, sets, kept = rd._WordHashes(), [], []
    for document in licences:
        shingles = set(rd._shingles(document.text, rd.SHINGLE_WORDS, words).tolist())
        if all(len(shingles & s) < rd.NEAR_DUPLICATE * len(shingles | s) for s in sets):
            sets.append(shingles)
            kept.append(document.name)
    ours = [d.name for d in rd.deduplicate(licences)]
    assert len(kept) < 0.95 * len(licences)  # there is something to find
    assert len(set(kept) ^ set(ours)) <= 0.02 * len(kept)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.06))
def test_edited_copies_go_and_strangers_stay(seed, edits):
    """An edit of 1 word in 17 breaks at most 5 of 17 shingles: J >= 12/22 even then, on average."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5000, (2, 400)).astype(str)
    copy = a.copy()
    changed = rng.permutation(400)[: int(edits * 400)]
    copy[changed] = "changed"
    documents = [Document("x", "a", " ".join(a)), Document("x", "b", " ".join(b))]
    again = Document("y", "copy", "\n".join(copy).upper())
    likeness = rd._jaccard(
        *(np.unique(rd._shingles(d.text, 5, rd._WordHashes())) for d in (documents[0], again))
    )
    expected = documents if likeness > 0.6 else None
    found = rd.deduplicate([*documents, again])
    assert found[:2] == documents
    assert expected is None or found == expected


def test_texts_without_words_are_equal_only_when_equal():
    documents = [
        Document("x", str(i), text) for i, text in enumerate(["!!!", "???", "! ! !", "!!!\n"])
    ]
    assert [d.name for d in rd.deduplicate(documents)] == ["0", "1", "2"]
    assert rd.deduplicate([]) == []


# --- pieces, split, contamination --------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.text(min_size=1, max_size=40), st.integers(1, 1500), st.sampled_from(["\n", " ", ""]))
def test_cut_loses_nothing_and_keeps_pieces_small(unit, times, joint):
    document = Document("x", "d", joint.join([unit] * times))
    pieces = rd.cut(document)
    assert "".join(p.text for p in pieces) == document.text
    assert max(p.num_bytes for p in pieces) <= rd.PIECE_BYTES * 1.5
    assert len({p.name for p in pieces}) == len(pieces)


def test_split_keeps_sources_apart_and_ignores_the_order_given(chapters):
    parts = rd.split(chapters, heldout_bytes=30_000, train_bytes=500_000, seed=5)
    sides = [
        {d.name.split("#")[0] for d in side}
        for side in (parts.train, parts.heldout, parts.contaminated, parts.spare)
    ]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert 30_000 <= rd.total_bytes(parts.heldout) < 30_000 + 1.5 * rd.PIECE_BYTES
    assert 500_000 - 1.5 * rd.PIECE_BYTES < rd.total_bytes(parts.train) <= 500_000
    assert rd.split(chapters[::-1], heldout_bytes=30_000, train_bytes=500_000, seed=5) == parts
    assert rd.split(chapters, heldout_bytes=30_000, train_bytes=500_000, seed=6) != parts


@pytest.mark.parametrize("domain", ["bible", "letters"])
@pytest.mark.parametrize("fraction, contaminated", [(0.1, False), (0.5, True), (1.0, True)])
def test_planted_contamination_is_dropped(chapters, domain, fraction, contaminated):
    """A part of a held-out chapter, in capitals and in another wrapping, is quoted in the training text."""
    chapters = chapters[:400]
    victim = rd.split(chapters, heldout_bytes=20_000).heldout[1]
    words = victim.text.upper().split()
    quoted = "\n".join(words[: int(len(words) * fraction)])
    others = [Document("letters", f"letter {i}", f"letter {i} says little") for i in range(20)]
    for i in range(50):  # the planted document must fall on the training side
        planted = Document(domain, f"planted {i}", f"He wrote: {quoted} and so on")
        parts = rd.split([*chapters, *others, planted], heldout_bytes=20_000)
        if any(d.name.startswith("planted") for d in parts.train):
            break
    assert (victim in parts.contaminated) == contaminated
    assert (victim in parts.heldout) == (not contaminated)
    assert rd.contaminated_fractions([victim], parts.train)[0] == pytest.approx(fraction, abs=0.06)


def test_contamination_counts_words_in_long_shared_runs():
    words = [f"w{i}" for i in range(100)]
    held = Document("x", "h", " ".join(words))
    shared = lambda n: Document("x", "t", "before " + " ".join(words[20 : 20 + n]) + " after")  # noqa: E731
    assert [
        rd.contaminated_fractions([held], [shared(n)])[0] for n in (12, 13, 40)
    ] == pytest.approx([0, 0.13, 0.4])
    assert rd.contaminated_fractions([], [held]).size == 0
    short = Document("x", "s", "only three words")
    assert rd.contaminated_fractions([short, held], [held, short]) == pytest.approx([1, 1])


def test_too_little_text_is_refused(chapters):
    with pytest.raises(UserError, match="too few"):
        rd.split(chapters[:1], heldout_bytes=100)
    with pytest.raises(UserError, match="take out what repeats"):
        rd.split([Document("x", str(i), chapters[0].text) for i in range(9)], heldout_bytes=5_000)
    with pytest.raises(UserError, match="positive"):
        rd.split(chapters, heldout_bytes=0)


def test_any_piece_of_a_source_may_be_held_out():
    """Sources of five pieces: over 20 seeds, all first pieces by chance has probability 5**-20."""
    rng = np.random.default_rng(0)
    sources = [
        Document("x", f"s{i}", " ".join(rng.integers(0, 10**6, 2700).astype(str))) for i in range(4)
    ]
    assert {len(rd.cut(d)) for d in sources} == {5}
    held = [rd.split(sources, heldout_bytes=1000, seed=seed).heldout[0] for seed in range(20)]
    assert len({d.name.split("#")[1] for d in held}) > 1


# --- scripts ---------------------------------------------------------------------------------------

LATIN = "abcdefghijklmnopqrstuvwxyz"
CASED = {
    "Greek": "αβγδεζηθικλμνξοπρστυφχψωϊϋ",
    "Cyrillic": "абвгдежзийклмнопрстуфхцчшщ",
    "Armenian": "".join(map(chr, range(0x561, 0x57B))),
    "Georgian": "".join(map(chr, range(0x10D0, 0x10EA))),  # its capitals are a block of their own
    "Deseret": "".join(map(chr, range(0x10428, 0x10442))),  # beyond 16 bits
    "Devanagari": "".join(map(chr, range(0x915, 0x92F))),  # without capitals
    "Hebrew": "".join(map(chr, range(0x5D0, 0x5EA))),
    "Ethiopic": "".join(map(chr, range(0x1200, 0x121A))),
    "Braille": "".join(map(chr, range(0x2801, 0x281B))),  # symbols by category
}


@pytest.mark.parametrize("script", CASED)
def test_letters_exchanged_one_for_one_change_no_count(licences, script):
    """Exact: repetition does not depend on what letters look like. Case goes with the letter where the script has it."""
    alphabet = CASED[script]
    table = str.maketrans(LATIN[: len(alphabet)], alphabet) | str.maketrans(
        LATIN[: len(alphabet)].upper(), alphabet.upper()
    )
    assert len(set(alphabet.lower())) == len(alphabet) >= 26
    latin = [d for d in licences if d.text.isascii()][:250]
    other = [Document(d.domain, d.name, d.text.translate(table)) for d in latin]
    kept = [[d.name for d in rd.deduplicate(documents)] for documents in (latin, other)]
    assert kept[0] == kept[1] and len(kept[0]) < len(latin)
    found = [rd.contaminated_fractions(d[::2], d[1::2]) for d in (latin, other)]
    assert np.array_equal(*found) and 0 < (found[0] > rd.MOST_CONTAMINATED).mean() < 1


def test_a_letter_is_the_same_however_it_is_written():
    """Composed or not, full width, with a soft hyphen, a joiner or a mark of direction, in capitals: one text."""
    held = (
        "Le café de la façade naïve; où l’élève a lu cinq œuvres très différentes ce matin là " * 2
    )
    written = [
        unicodedata.normalize("NFD", held),
        held.upper(),
        held.replace("élève", "élè\u00adve"),
        "\ufeff" + held.replace(" ", "\u00a0"),
        "\u202a" + held.replace("e", "\uff45") + "\u202c",
    ]
    for text in written:
        (found,) = rd.contaminated_fractions([Document("x", "h", held)], [Document("x", "t", text)])
        assert found == 1, text
    assert rd._words("\u0915\u094d\u0937 \u0915\u094d\u200d\u0937") == ["\u0915\u094d\u0937"] * 2
    assert rd._words("ΟΔΟΣ") == rd._words("οδος")


@pytest.mark.parametrize(
    "letters, per_word",
    [
        (range(0x4E00, 0x9000), 28 / 16),  # ideographs
        (range(0x30A2, 0x30F0), 4),  # katakana
        (range(0x3042, 0x3090), 4),  # hiragana
        (range(0xE01, 0xE2F), 4),  # Thai
        (range(0x1000, 0x1021), 4),  # Myanmar
    ],
)
@pytest.mark.parametrize("spaces", [False, True])
def test_text_without_spaces_is_compared_letter_by_letter(letters, per_word, spaces):
    """A quotation is found wherever it begins, from 13 words' worth of letters on; spaces and marks of a break do not matter."""
    rng = np.random.default_rng(0)
    random = lambda n: "".join(map(chr, rng.choice(letters, n)))  # noqa: E731
    needed = int(np.ceil(13 * per_word))
    text = random(400)
    for start in rng.integers(0, 300, 5):
        for length, found in ((needed - 1, 0), (needed, needed / 400), (90, 90 / 400)):
            quoted = text[start : start + length]
            quoted = "\u200b".join(quoted) if spaces else quoted
            train = Document("x", "t", f"{random(50)}。{quoted}。{random(50)}")
            (fraction,) = rd.contaminated_fractions([Document("x", "h", text)], [train])
            assert fraction == pytest.approx(
                found, abs=2 / 400
            )  # a neighbour may be equal by chance


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["one", "two", "起", "か", "ไ", "Ω"]), min_size=1, max_size=60))
def test_runs_are_what_their_definition_says(parts):
    """Each run begins at a word and is the shortest that holds 5 words; its hash is of its words alone."""
    size = {"one": 28, "two": 28, "Ω": 28, "起": 16, "か": 7, "ไ": 7}
    text, words = " ".join(parts), rd._WordHashes()
    runs, stops, units = rd._runs(text, 5, words)
    assert units.tolist() == [size[p] for p in parts]
    expected = [
        next((e for e in range(s, len(parts) + 1) if sum(units[s:e]) >= 140), None)
        for s in range(len(parts))
    ]
    assert stops.tolist() == ([e for e in expected if e] or [len(parts)])
    for start, stop in enumerate(stops):
        alone = rd._runs(" ".join(parts[start:stop]), 5, rd._WordHashes())[0]
        assert alone[0] == runs[start]
        value = 0
        for part in parts[start:stop]:
            value = (value * rd._BASE + rd._hash64(part.casefold())) % 2**64
        value ^= value >> 29
        value = value * 0xBF58476D1CE4E5B9 % 2**64
        assert runs[start] == value ^ (value >> 32)


def test_punctuation_and_symbols_are_no_words():
    assert rd._words("“Naïve” — → ∑ 🙂 don’t… x² №5") == ["naïve", "don", "t", "x2", "no5"]
    assert rd._words(" 🙂  🙃 ") == ["🙂 🙃"]  # nothing else to compare by


@pytest.mark.skipif(
    not Path("/usr/share/locale/ru/LC_MESSAGES").is_dir(), reason="no message catalogues here"
)
def test_real_languages_share_what_their_originals_share():
    """Documents of 40 messages of real programs: the share of contaminated ones is that of the English originals of the
    same messages, within 2.5 standard errors (the two are paired, so their difference is smaller still)."""
    found = {}
    for language in ("ru", "el", "ja", "hi"):
        pairs = []
        for path in sorted(Path("/usr/share/locale", language, "LC_MESSAGES").glob("*.mo")):
            with contextlib.suppress(Exception), open(path, "rb") as file:
                catalogue = gettext.GNUTranslations(file)._catalog
                own = sorted(
                    (k, v) for k, v in catalogue.items() if isinstance(k, str) and len(v) > 20 and k
                )
                pairs += [own[i : i + 40] for i in range(0, len(own) - 39, 40)]
        if len(pairs) < 30:
            continue
        sides = [
            [
                Document("x", str(i), "\n".join(p[side] for p in pair))
                for i, pair in enumerate(pairs[:300])
            ]
            for side in (0, 1)
        ]
        found[language] = [
            (rd.contaminated_fractions(d[::2], d[1::2]) > rd.MOST_CONTAMINATED).mean()
            for d in sides
        ]
        english, own = found[language]
        assert abs(own - english) <= 2.5 * np.sqrt(max(english, 0.02) / len(sides[0][::2])), found

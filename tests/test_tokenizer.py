"""The tokenizer: bytes of tokens, one file, and processes that tokenize as one does."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscale.core import UserError
from relscale.text import tokenizer as rt
from relscale.text.sources import load_domain


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


def test_tokenizer_does_not_depend_on_threads_or_process():
    code = (
        "from relscale.text import tokenizer as t; from relscale.text.sources import load_domain;"
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


def test_import_is_light():
    heavy = "{'jax', 'tokenizers', 'tensorstore', 'pandas', 'matplotlib'}"
    code = f"import sys, relscale.text.tokenizer; print({heavy} & set(sys.modules))"
    assert fresh_python(code) == "set()"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_a_stream_holds_each_text_after_a_separator(tokenizer, texts):
    tokens, token_bytes, lengths = rt.encode_texts(texts, texts, tokenizer)
    starts = np.cumsum([0, *lengths])
    assert starts[-1] == len(tokens) == len(token_bytes)
    for text, start, end in zip(texts, starts, starts[1:], strict=False):
        assert tokens[start] == tokenizer.token_to_id(rt.END_OF_TEXT) and token_bytes[start] == 0
        assert tokenizer.decode(tokens[start + 1 : end]) == text
        assert token_bytes[start:end].sum() == len(text.encode())


def test_counts_are_stored_in_types_that_hold_them():
    """A token of 256 bytes does not fit uint8, and id 65,536 does not fit uint16: each a step too far by one."""
    long = rt.train_tokenizer(["a" * 256] * 3, 257 + 8)  # eight doublings: one token of 256 bytes
    _, token_bytes, _ = rt.encode_texts(["long"], ["a" * 256], long)
    assert token_bytes.tolist() == [0, 256]
    long.add_tokens([f"w{i}" for i in range(2**16 + 1 - 265)])
    tokens, _, _ = rt.encode_texts(["last"], [f"w{2**16 - 265}"], long)
    assert tokens.tolist() == [0, 2**16]

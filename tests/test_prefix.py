"""Prefixes and trees of tokens against whole texts, and the walk against brute force."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relscale.eval.kv_cache import BLOCK, Rows, chain, cut, new_prefix, read_rows
from relscale.eval.prefix_tree import row_lengths, sort_texts, walk
from relscale.model.decoder import init_model
from relscale.plan.spec import ComputeSpec, ModelSpec, RopeScaling

BOUND = 1e-4  # float32 rounding on states of order two; a key too many or too few moves them by 0.1


def large(spec, compute=None):
    """Random weights of twice the usual size, so that who sees whom matters."""
    drawn = init_model(spec, key=jax.random.key(0), compute=compute)
    return jax.tree.map(lambda w: 2 * w, drawn)


CASES = [(1, False, True), (2, True, False), (2, False, False), (4, True, True)]


@pytest.mark.parametrize(("kv_heads", "qk_norm", "scaled"), CASES)
def test_parts_equal_the_whole(kv_heads, qk_norm, scaled):
    """Three pieces, one after the other, and the decoder of chapter 12."""
    scaling = RopeScaling(8.0, 1.0, 4.0, 32) if scaled else None
    spec = ModelSpec(
        32, 2, 4, kv_heads, 12, 48, 97, qk_norm=qk_norm, tied=scaled, rope_scaling=scaling
    )
    model = large(spec)
    text = np.random.default_rng(0).integers(0, 97, 70)
    whole, prefix = model(jnp.asarray(text)[None])[0], new_prefix(model, 128)
    assert whole.std() > 0.5
    for start, stop, length in ((0, 30, 32), (30, 37, 16), (37, 70, 33)):
        rows = chain(text[start:stop], start, length)
        hidden, prefix = read_rows(model, prefix, rows, True)
        assert int(prefix.length) == stop
        np.testing.assert_allclose(hidden[0, : stop - start], whole[start:stop], atol=BOUND)


def test_bfloat16_rounds_as_the_decoder_does():
    """One part in 2^8 a rounding, over two layers: states of order one differ by a few hundredths on average."""
    model = large(ModelSpec(32, 2, 4, 2, 12, 48, 97), ComputeSpec("bfloat16"))
    text = np.arange(60) * 7 % 97
    _, prefix = read_rows(model, new_prefix(model, 64), chain(text[:40]), True)
    hidden, _ = read_rows(model, prefix, chain(text[40:], 40))
    assert prefix.keys.dtype == hidden.dtype == jnp.bfloat16
    whole = np.asarray(model(jnp.asarray(text)[None])[0, 40:], np.float32)
    off = np.abs(np.asarray(hidden[0], np.float32) - whole)
    assert off.max() < 0.3 and off.mean() < 0.05 < whole.std() / 10


def test_a_long_prefix_is_seen_block_by_block_by_one_program():
    spec = ModelSpec(16, 1, 2, 1, 8, 32, 50)
    model = large(spec)
    text = np.random.default_rng(1).integers(0, 50, 2 * BLOCK + 90)
    whole, prefix = model(jnp.asarray(text)[None])[0], new_prefix(model, len(text) + 64)
    read = jax.jit(lambda *a: read_rows(*a))
    for stop in (BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 20):
        _, full = read_rows(model, prefix, chain(text[:stop], 0, 2 * BLOCK + 64), True)
        hidden, _ = read(model, full, chain(text[stop : stop + 64], stop, 64))
        np.testing.assert_allclose(hidden[0], whole[stop : stop + 64], atol=BOUND)
    assert read._cache_size() == 1


def test_a_shorter_prefix_forgets_what_lay_beyond():
    model = large(ModelSpec(16, 1, 2, 1, 8, 32, 50))
    _, prefix = read_rows(model, new_prefix(model, 64), chain(np.arange(30)), True)
    poisoned = eqx.tree_at(lambda p: p.keys, prefix, prefix.keys.at[:, :, 12:].set(1e4))
    clean, dirty = (read_rows(model, cut(p, 12), chain([3, 4], 12))[0] for p in (prefix, poisoned))
    np.testing.assert_array_equal(clean, dirty)


def test_branches_do_not_see_one_another():
    model = large(ModelSpec(16, 2, 2, 1, 8, 32, 50))
    rows = Rows(*(np.array([a]) for a in ([1, 2, 3, 4, 9], [0, 1, 2, 1, 0], [4, 3, 3, 4, 5])))
    hidden, _ = read_rows(model, new_prefix(model, 8), rows)
    for text, slot in (([1, 2, 3], 2), ([1, 4], 3), ([9], 4)):
        alone = model(jnp.asarray([text]))[0, -1]
        np.testing.assert_allclose(hidden[0, slot], alone, atol=BOUND)


def texts_of(random):
    """Random texts of three tokens with much in common, some the beginning of others."""
    pool = [random.integers(0, 3, random.integers(1, 40)) for _ in range(4)]
    texts = {}
    for _ in range(random.integers(1, 30)):
        parts = [pool[k] for k in random.integers(0, 4, random.integers(1, 4))]
        text = np.concatenate([*parts, random.integers(0, 3, random.integers(1, 6))])
        text = text[: random.integers(1, 120)]
        texts[text.tobytes()] = text
    return list(texts.values())


def read_by_hand(calls):
    """What each wanted position sees, cell by cell, from the arrays of the calls alone."""
    path, seen = [], {}
    for call in calls:
        assert call.start <= len(path)
        path = path[: call.start]
        tokens, position, end = call.rows
        for slot, cell in zip(call.slots, call.cells, strict=True):
            row, i = divmod(int(slot), tokens.shape[1])
            above = np.flatnonzero(end[row, : i + 1] > i)
            sequence = [*path, *tokens[row, above].tolist()]
            assert position[row, above].tolist() == list(range(len(path), len(sequence)))
            assert cell not in seen
            seen[int(cell)] = sequence
        if call.keep:
            assert len(tokens) == 1
            path = path + tokens[0, : int((end == end[0, 0]).sum())].tolist()
    return seen


@pytest.mark.parametrize(("tokens_at_once", "ways"), [(4, 1), (16, 4), (64, 1), (512, 2)])
def test_the_walk_reads_every_text(tokens_at_once, ways):
    """Each wanted position is read once, and sees its own text and nothing else."""
    for seed in range(15):
        random = np.random.default_rng(seed)
        texts = texts_of(random)
        wanted = [int(random.integers(1, len(t) + 1)) for t in texts]
        calls = list(walk(sort_texts(texts), wanted, tokens_at_once=tokens_at_once, ways=ways))
        positions = [t[: j + 1].tolist() for t, w in zip(texts, wanted, strict=True)
                     for j in range(len(t) - w, len(t))]  # fmt: skip
        assert read_by_hand(calls) == dict(enumerate(positions))
        for call in calls:
            rows, length = call.rows.tokens.shape
            assert length in row_lengths(tokens_at_once)
            assert call.keep or (rows % ways == 0 and rows * length <= tokens_at_once * ways)


def test_what_is_shared_is_read_once():
    """30 questions behind 300 tokens: at most a row's padding for the prefix, and few unused tokens."""
    random = np.random.default_rng(0)
    shots = random.integers(0, 99, 300)
    texts = [np.concatenate([shots, random.integers(0, 99, 40)]) for _ in range(30)]
    given = sort_texts(texts)
    assert 300 + 30 * 39 <= given.num_unique <= 300 + 30 * 40
    calls = list(walk(given, [1] * 30, tokens_at_once=512))
    assert [c.keep for c in calls] == [True] + [False] * 3
    assert sum(c.rows.tokens.size for c in calls) == 4 * 512


def test_nested_texts_need_no_deep_recursion():
    text = np.arange(1200)
    texts = [text[:n] for n in range(1, 1201)]
    calls = list(walk(sort_texts(texts), [1] * 1200, tokens_at_once=64))
    assert len(read_by_hand(calls)) == 1200 and len(calls) == 19


def test_a_call_for_one_text_is_small():
    """Thirty-two rows of 512 tokens fit; the one that is needed costs two, a sixteenth."""
    (call,) = walk(sort_texts([np.arange(9)]), [1], tokens_at_once=16_384)
    assert call.rows.tokens.shape == (2, 512)

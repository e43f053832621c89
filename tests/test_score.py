"""Rolling scores against one token at a time, and the standard error against brute force."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relscale.core import UserError
from relscale.eval.bits import (
    DocumentScores,
    bits_per_byte_with_stderr,
    document_token_nats,
    score_documents,
)
from relscale.eval.windows import rolling_windows
from relscale.model.decoder import init_model, logits
from relscale.plan.spec import ModelSpec

END = 256
SPEC = ModelSpec(16, 1, 2, 2, 8, 32, 257)
WINDOW = 12
TEXTS = ["a", "", "twelve chars", "exactly 13 ch", "naïve café, ένα, 🙂🙂", "long " * 17]


def encode(text):
    tokens = np.array([END, *text.encode()], np.int32)
    return tokens, (tokens != END).astype(np.int64)


@pytest.fixture(scope="module")
def model():
    drawn = init_model(SPEC, key=jax.random.key(0))
    # larger weights, so that the context matters and a shifted window shows
    return jax.tree.map(lambda a: 3 * a, drawn)


@pytest.fixture(scope="module")
def next_nats(model):
    """Loss of the last token of a sequence of at most WINDOW + 1, computed for it alone."""
    run = jax.jit(logits)

    def nats(tokens):
        padded = np.zeros(WINDOW, np.int32)
        padded[: len(tokens) - 1] = tokens[:-1]
        row = np.asarray(run(model, padded)[len(tokens) - 2], np.float64)
        return np.log(np.exp(row - row.max()).sum()) + row.max() - row[tokens[-1]]

    return nats


@pytest.mark.parametrize("context", [0, 5, 11])
def test_rolling_equals_one_token_at_a_time(model, next_nats, context):
    """Each token is predicted from the start of the first window that reaches it, and no other."""
    documents = [encode(t) for t in TEXTS]
    fast = document_token_nats(model, documents, window=WINDOW, context=context, batch_size=5)
    for (tokens, _), values in zip(documents, fast, strict=True):
        assert len(values) == len(tokens) - 1
        start = 0
        for i in range(1, len(tokens)):
            if i > start + WINDOW:
                start += WINDOW - context
            slow = next_nats(tokens[start : i + 1])
            assert values[i - 1] == pytest.approx(slow, abs=2e-5)  # float32 logits near 10


def test_each_token_once_with_enough_context():
    for window, context in ((1, 0), (4, 0), (4, 3), (12, 5)):
        for length in range(40):
            windows = rolling_windows(length, window, context)
            targets = [t for w in windows for t in range(w.first, w.stop)]
            assert targets == list(range(1, length))
            for w in windows:
                assert w.stop - 1 - w.start <= window
                assert w.first - w.start > context or w.start == 0


def test_bytes_are_those_of_the_text(model):
    scores = score_documents(
        model, [encode(t) for t in TEXTS], window=WINDOW, context=5, batch_size=5
    )
    np.testing.assert_array_equal(scores.num_bytes, [len(t.encode()) for t in TEXTS])
    np.testing.assert_array_equal(scores.num_tokens, scores.num_bytes)
    assert scores.nats[1] == 0 and scores.bits_per_byte.n == len(TEXTS) - 1
    assert scores.bits_per_byte.value == pytest.approx(
        scores.nats.sum() / math.log(2) / len("".join(TEXTS).encode())
    )


def test_tokens_of_many_bytes(model):
    """Three tokens of 5, 0 and 2 bytes: the nats of all three count, over seven bytes."""
    document = (np.array([END, 1, 2, 3]), np.array([0, 5, 0, 2]))
    scores = score_documents(model, [document], window=WINDOW, context=5, batch_size=5)
    (nats,) = document_token_nats(model, [document], window=WINDOW, context=5, batch_size=5)
    assert scores.bits_per_byte.value == pytest.approx(nats.sum() / math.log(2) / 7)
    assert math.isnan(scores.bits_per_byte.stderr)


def test_batch_size_and_order_do_not_matter(model):
    documents = [encode(t) for t in TEXTS]
    base = score_documents(model, documents, window=WINDOW, context=5, batch_size=5)
    other = score_documents(model, documents[::-1], window=WINDOW, context=5, batch_size=3)
    np.testing.assert_allclose(base.nats, other.nats[::-1], rtol=1e-5)


def test_one_program_for_all_documents(model):
    """A second set of documents, and a second model of the shape, must not compile again."""
    from relscale.eval.bits import _batch_nll

    call = {"window": WINDOW, "context": 5, "batch_size": 5}
    score_documents(model, [encode("warm")], **call)
    size = _batch_nll._cached._cache_size()
    score_documents(jax.tree.map(lambda a: -a, model), [encode(t) for t in TEXTS], **call)
    assert _batch_nll._cached._cache_size() == size


def test_a_diverged_model_is_refused(model):
    broken = eqx.tree_at(lambda m: m.embedding, model, model.embedding.at[ord("Z")].set(jnp.inf))
    documents = [encode("fine"), encode("also fine"), encode("aZa")]
    with pytest.raises(UserError, match=r"document 2: the loss of token . is not finite"):
        score_documents(broken, documents, window=WINDOW, context=5, batch_size=5)
    with pytest.raises(UserError, match="document 1"):
        bits_per_byte_with_stderr([1.0, math.nan], [1, 1])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ((np.array([65, 66]), np.array([1, 1])), "end-of-text"),
        ((np.array([END, 66]), np.array([0])), "one count a token|need one"),
        ((np.array([], int), np.array([], int)), "end-of-text token at least"),
        ((np.array([END, 300]), np.array([0, 1])), "vocabulary of 257"),
    ],
)
def test_bad_documents_are_named(model, document, message):
    with pytest.raises(UserError, match=f"document 1.*({message})"):
        score_documents(model, [encode("ok"), document], window=WINDOW, context=5, batch_size=5)


def test_nothing_to_score_is_refused(model):
    scores = score_documents(model, [encode("")], window=WINDOW, context=5, batch_size=5)
    with pytest.raises(UserError, match="no document has any bytes"):
        _ = scores.bits_per_byte


def test_stderr_agrees_with_the_bootstrap():
    """The formula is the bootstrap's first-order limit: 4000 resamples know it to about 1 %."""
    random = np.random.default_rng(0)
    n = 400
    num_bytes = random.lognormal(6, 0.7, n)
    nats = num_bytes * random.gamma(20, 0.05, n)
    estimate = bits_per_byte_with_stderr(nats, num_bytes)
    draw = random.integers(0, n, (4000, n))
    ratios = nats[draw].sum(1) / num_bytes[draw].sum(1) / math.log(2)
    assert estimate.stderr == pytest.approx(ratios.std(), rel=0.05)
    # a mean of ratios has another error, and would be told apart
    naive = np.std(nats / num_bytes / math.log(2), ddof=1) / math.sqrt(n)
    assert abs(naive / ratios.std() - 1) > 0.1


def test_stderr_covers():
    """Of 2000 groups of 50 documents, the 95 % interval holds the truth in 95 %, give or take 2."""
    random = np.random.default_rng(1)
    num_bytes = random.gamma(4, 100, (2000, 50))
    nats = num_bytes * random.gamma(20, 0.05, (2000, 50))
    truth = 1 / math.log(2)
    inside = [
        abs(e.value - truth) < 2.01 * e.stderr
        for e in map(bits_per_byte_with_stderr, nats, num_bytes)
    ]
    assert 0.93 < np.mean(inside) < 0.97


def test_the_error_of_two_documents_by_hand():
    """Of equal length, bits 1 and 3: the error of their mean, sqrt(2) / sqrt(2); and the band of the plot."""
    nats = math.log(2) * np.array([1.0, 3.0])
    estimate = bits_per_byte_with_stderr(nats, np.ones(2))
    np.testing.assert_allclose(estimate, (2, 1, 2), rtol=1e-12)
    band = DocumentScores(nats, np.ones(2), np.ones(2)).plot().patches[0]
    np.testing.assert_allclose((band.get_y(), band.get_height()), (1, 2), rtol=1e-12)

"""The decoder against a transcription that shares no code with it, and its promises as tests."""

import dataclasses
import functools
import math

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from relscale.core import UserError
from relscale.model import init_model, logits, mean_nll, rope_frequencies, token_nll
from relscale.spec import ModelSpec, RopeScaling

GROUPED = ModelSpec(
    hidden=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp=40, vocab=61
)
# At 32 tokens of original context the scaled, blended and kept frequencies all occur.
SPECS = {
    "grouped": dataclasses.replace(GROUPED, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32)),
    "plain": dataclasses.replace(
        GROUPED, num_kv_heads=4, rope_scaling=None, rope_theta=100.0, qk_norm=False, tied=True
    ),
}


def slow_logits(model, spec, tokens):
    """The forward pass in float64, one token and one head at a time."""
    w = jax.tree.map(lambda a: np.asarray(a, np.float64), model)

    def norm(x, weight):
        return x / math.sqrt(sum(v * v for v in x) / len(x) + spec.norm_eps) * weight

    def turn(x, position):
        half, out = spec.head_dim // 2, np.empty(spec.head_dim)
        for j in range(half):
            f = spec.rope_theta ** (-2 * j / spec.head_dim)
            if (s := spec.rope_scaling) is not None:
                wavelength = 2 * math.pi / f
                if wavelength > s.original_length / s.low:
                    f = f / s.factor
                elif wavelength >= s.original_length / s.high:
                    mix = (s.original_length / wavelength - s.low) / (s.high - s.low)
                    f = (1 - mix) * f / s.factor + mix * f
            c, i = math.cos(position * f), math.sin(position * f)
            out[j] = x[j] * c - x[j + half] * i
            out[j + half] = x[j + half] * c + x[j] * i
        return out

    caches = [([], []) for _ in range(spec.num_layers)]
    rows = []
    for position, token in enumerate(np.asarray(tokens)):
        x = w.embedding[token]
        for layer in range(spec.num_layers):
            b = jax.tree.map(lambda a, layer=layer: a[layer], w.blocks)
            y = norm(x, b.attention_norm.weight)
            q = (y @ b.attention.query).reshape(spec.num_heads, -1)
            k = (y @ b.attention.key).reshape(spec.num_kv_heads, -1)
            v = (y @ b.attention.value).reshape(spec.num_kv_heads, -1)
            if spec.qk_norm:
                q = np.array([norm(h, b.attention.query_norm.weight) for h in q])
                k = np.array([norm(h, b.attention.key_norm.weight) for h in k])
            keys, values = caches[layer]
            keys.append([turn(h, position) for h in k])
            values.append(v)
            mixed = []
            for h in range(spec.num_heads):
                g = h // (spec.num_heads // spec.num_kv_heads)
                s = [turn(q[h], position) @ past[g] / math.sqrt(spec.head_dim) for past in keys]
                p = np.exp(np.array(s) - max(s))
                mixed.append(sum(a * past[g] for a, past in zip(p / p.sum(), values, strict=True)))
            x = x + np.concatenate(mixed) @ b.attention.output
            y = norm(x, b.mlp_norm.weight)
            gate = y @ b.mlp.gate
            x = x + (gate / (1 + np.exp(-gate)) * (y @ b.mlp.up)) @ b.mlp.down
        head = w.embedding if spec.tied else w.head
        rows.append(head @ norm(x, w.final_norm.weight))
    return np.array(rows)


def noisy(model):
    """Weights off their initial values, so that a norm weight left out cannot hide behind ones."""
    leaves, tree = jax.tree.flatten(model)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return tree.unflatten(
        [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


@functools.cache
def model_and_tokens(name):
    spec = SPECS[name]
    model = noisy(init_model(spec, key=jax.random.key(0)))
    return spec, model, jax.random.randint(jax.random.key(1), (3, 20), 0, spec.vocab)


@pytest.fixture(params=SPECS)
def case(request):
    return model_and_tokens(request.param)


@pytest.fixture
def grouped():
    return model_and_tokens("grouped")


@pytest.fixture(scope="module")
def fresh():
    return init_model(ModelSpec(128, 2, 2, 2, 32, 384, 1024), key=jax.random.key(3))


def test_forward_agrees_with_a_transcription(case):
    """Float32 rounding over two layers stays below 1e-5 of the largest logit; a wrong formula does not."""
    spec, model, tokens = case
    ours, slow = np.asarray(jax.jit(logits)(model, tokens[0])), slow_logits(model, spec, tokens[0])
    assert np.abs(ours - slow).max() < 1e-5 * np.abs(slow).max()


def test_loss_and_gradient_equal_those_of_a_plain_loss(case):
    """The hand-written backward pass of the head, whole and cut, against autodiff of a plain loss."""
    spec, model, tokens = case
    model = eqx.tree_at(lambda m: m.blocks, model, jax.tree.map(lambda a: a[:1], model.blocks))

    def plain(model):
        scores = jax.nn.log_softmax(logits(model, tokens[:, :-1]))
        return -jnp.take_along_axis(scores, tokens[:, 1:, None], axis=-1)[..., 0]

    # uneven weights, so that a cotangent that is dropped or shared shows
    weight = jnp.linspace(0.1, 1.0, 3 * 19).reshape(3, 19)
    ways = (
        plain,
        lambda m: token_nll(m, tokens),
        lambda m: token_nll(m, tokens, logits_at_once=3 * 8 * spec.vocab),  # 8 + 8 + 3 tokens
    )
    sums = [jax.value_and_grad(lambda m, f=f: jnp.sum(weight * f(m))) for f in ways]
    results = jax.jit(lambda m: [f(m) for f in sums])(model)
    for value, gradient in results[1:]:
        np.testing.assert_allclose(value, results[0][0], rtol=1e-6)
        for ours, theirs in zip(
            jax.tree.leaves(gradient), jax.tree.leaves(results[0][1]), strict=True
        ):
            assert jnp.abs(ours - theirs).max() < 2e-5 * (jnp.abs(theirs).max() + 1e-3)


def test_the_large_vocabulary_is_never_whole():
    """No array of batch x seq x vocab may appear in the step of a full-size vocabulary, nor half of one."""
    spec = dataclasses.replace(GROUPED, vocab=128_256)
    model = eqx.filter_eval_shape(init_model, spec, key=jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((64, 513), jnp.int32)
    jaxpr = jax.make_jaxpr(jax.value_and_grad(mean_nll))(model, tokens)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars)
            for sub in jax.extend.core.jaxprs_in_params(equation.params):
                yield from sizes(sub)

    assert max(sizes(jaxpr.jaxpr)) <= 2**27


def test_no_output_moves_before_the_token_that_changed(case):
    """To the last bit: a leak too small to see would still be a leak."""
    spec, model, tokens = case
    run = jax.jit(logits)
    before = run(model, tokens[0])
    for at in (1, 10, 19):
        after = run(model, tokens[0].at[at].set((tokens[0, at] + 1) % spec.vocab))
        np.testing.assert_array_equal(before[:at], after[:at])
        assert (before[at:] != after[at:]).any(axis=-1).all()


def test_a_batch_is_its_sequences(grouped):
    _, model, tokens = grouped
    together = jax.jit(logits)(model, tokens)
    apart = jax.jit(jax.vmap(logits, in_axes=(None, 0)))(model, tokens)
    np.testing.assert_allclose(together, apart, atol=2e-5)


@pytest.mark.parametrize(
    ("hidden", "layers", "published"), [(512, 6, 156_508_160), (4096, 40, 11_788_433_408)]
)
def test_leaves_add_up_to_the_published_count(hidden, layers, published):
    heads = hidden // 128
    spec = ModelSpec(hidden, layers, heads, heads, 128, 4 * hidden, 128_256)
    model = eqx.filter_eval_shape(init_model, spec, key=jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(model)) == published


def test_initial_scales(fresh):
    """Spread of each draw: 0.9866 of nominal, within five standard errors of so many draws."""
    model, blocks, cut = fresh, fresh.blocks, 0.9866
    for leaf, fan_in in (
        (blocks.attention.query, 128),
        (blocks.attention.output, 64),
        (blocks.mlp.up, 128),
        (blocks.mlp.down, 384),
        (model.embedding, 128**2),
        (model.head, 128),
    ):
        nominal = cut / math.sqrt(fan_in)
        assert abs(float(leaf.std()) / nominal - 1) < 5 / math.sqrt(2 * leaf.size)
        assert float(jnp.abs(leaf).max()) <= 3 / math.sqrt(fan_in)
    np.testing.assert_allclose(model.head, model.embedding * math.sqrt(128), rtol=1e-6)
    assert not np.array_equal(blocks.mlp.up[0], blocks.mlp.up[1])
    assert not np.array_equal(blocks.mlp.up, blocks.mlp.gate)


def test_a_fresh_model_guesses(fresh):
    """Unit-variance logits cost half a nat over the uniform guess: ln E[e^s] = 1/2."""
    tokens = jax.random.randint(jax.random.key(1), (8, 129), 0, 1024)
    assert abs(float(jax.jit(mean_nll)(fresh, tokens)) - math.log(1024) - 0.5) < 0.1


def test_bfloat16_leaves_give_bfloat16_activations_and_a_float32_loss(grouped):
    _, model, tokens = grouped
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), model)
    hidden, loss = jax.eval_shape(half, tokens), jax.eval_shape(token_nll, half, tokens)
    assert (hidden.dtype, loss.dtype) == (jnp.bfloat16, jnp.float32)
    exact = jax.jit(mean_nll)(model, tokens)
    # 8 bits of mantissa: a percent or so of a loss near ln 61
    assert abs(float(jax.jit(mean_nll)(half, tokens) / exact) - 1) < 0.03


def test_llama3_frequencies_at_the_real_setting():
    """Three regimes at 8192 tokens: kept below a wavelength of 2048, divided by 8 above 8192."""
    spec = dataclasses.replace(GROUPED, head_dim=128)
    plain = rope_frequencies(dataclasses.replace(spec, rope_scaling=None))
    ratio = rope_frequencies(spec) / plain
    wavelength = 2 * math.pi / plain
    np.testing.assert_allclose(ratio[wavelength < 2048], 1)
    np.testing.assert_allclose(ratio[wavelength > 8192], 1 / 8)
    between = ratio[(wavelength >= 2048) & (wavelength <= 8192)]
    assert len(between) > 2 and ((between > 1 / 8) & (between < 1)).all()


def test_tokens_of_a_wrong_shape_are_refused(grouped):
    _, model, tokens = grouped
    for bad in (tokens[0], tokens[:, :1]):
        with pytest.raises(UserError, match=r"batch, seq \+ 1"):
            token_nll(model, bad)

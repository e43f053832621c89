"""The decoder against a transcription that shares no code with it, and its promises as tests."""

import dataclasses
import functools
import inspect
import math
import re

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from relscale.core import UserError
from relscale.model.decoder import (
    UNROLLED_LAYERS,
    RMSNorm,
    attend,
    init_model,
    logits,
    rope_frequencies,
)
from relscale.model.loss import mean_nll, token_nll
from relscale.model.optim import hyper_of
from relscale.model.training import start_state, train_step
from relscale.plan.spec import (
    ComputeSpec,
    ModelSpec,
    OptimSpec,
    RopeScaling,
    RunSpec,
    from_json,
    to_json,
)

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


def with_compute(model, *args, **kwargs):
    return dataclasses.replace(model, compute=ComputeSpec(*args, **kwargs))


def first_layer(model):
    """A shallow cut that compiles in half the time."""
    return eqx.tree_at(lambda m: m.blocks, model, jax.tree.map(lambda a: a[:1], model.blocks))


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for sub in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(sub)


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
    model = first_layer(model)

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


@pytest.mark.parametrize(
    ("seq", "heads", "groups"), [(64, 2, 2), (65, 4, 2), (300, 3, 1)], ids=["one", "two", "uneven"]
)
def test_attention_in_strips_is_attention(seq, heads, groups):
    """Strips of one, two (64 + 1) and four (75 each) with their gradients, against plain softmax in float64.

    Float32 rounding of sums over 300 terms: below 1e-5 of the largest entry; a strip, a mask or a group
    out of place is of its order.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    query, slope = (jax.random.normal(k, (2, seq, heads, 8)) for k in keys[:2])
    key, value = (jax.random.normal(k, (2, seq, groups, 8)) for k in keys[2:])
    mixed, pull = jax.vjp(attend, query, key, value)
    ours = (mixed, *pull(slope))

    q, k, v, g = (np.asarray(x, np.float64) for x in (query, key, value, slope))
    k, v = (np.repeat(x, heads // groups, axis=2) for x in (k, v))
    scores = np.einsum("bshd,bthd->bhst", q, k) / math.sqrt(8)
    scores = np.where(np.tri(seq, dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    out = np.einsum("bhst,bthd->bshd", p, v)
    dp = np.einsum("bshd,bthd->bhst", g, v)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) / math.sqrt(8)
    dk, dv = np.einsum("bhst,bshd->bthd", ds, q), np.einsum("bhst,bshd->bthd", p, g)
    dk, dv = (x.reshape(2, seq, groups, -1, 8).sum(axis=3) for x in (dk, dv))
    for a, b in zip(ours, (out, np.einsum("bhst,bthd->bshd", ds, k), dk, dv), strict=True):
        assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()


def test_attention_keeps_a_strip_where_a_square_was():
    """On a CPU the products are 5/8 of the square's, counted from the program; elsewhere they are the library's."""
    x = jax.ShapeDtypeStruct((2, 512, 4, 16), jnp.float32)
    traced = jax.make_jaxpr(lambda q: jax.vjp(attend, q, q, q)[0])(x)
    dots = [e for e in equations(traced.jaxpr) if e.primitive.name == "dot_general"]
    sizes = [e.outvars[0].aval.size for e in dots if e.outvars[0].aval.shape[-1] != 16]
    assert sum(sizes) == 5 / 8 * 2 * 4 * 512**2


def test_the_large_vocabulary_is_never_whole():
    """No array of batch x seq x vocab may appear in the step of a full-size vocabulary, nor half of one."""
    spec = dataclasses.replace(GROUPED, vocab=128_256)
    model = eqx.filter_eval_shape(init_model, spec, key=jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((64, 513), jnp.int32)
    jaxpr = jax.make_jaxpr(jax.value_and_grad(mean_nll))(model, tokens)

    sizes = (v.aval.size for equation in equations(jaxpr.jaxpr) for v in equation.outvars)
    assert max(sizes) <= 2**27


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


def test_bfloat16_products_between_float32_ends(grouped):
    """Products in bfloat16; norms, softmax, loss, weights and gradients in float32."""
    _, model, tokens = grouped
    half = with_compute(model, "bfloat16")
    hidden, loss = jax.eval_shape(half, tokens), jax.eval_shape(token_nll, half, tokens)
    assert (hidden.dtype, loss.dtype) == (jnp.bfloat16, jnp.float32)
    traced = jax.make_jaxpr(mean_nll)(half, tokens)
    kinds = {}
    for equation in equations(traced.jaxpr):
        kinds.setdefault(equation.primitive.name, set()).update(
            v.aval.dtype.name for v in equation.invars if hasattr(v.aval, "dtype")
        )
    assert kinds["dot_general"] == {"bfloat16"}
    for name in ("exp", "log", "rsqrt", "reduce_max"):
        assert kinds[name] == {"float32"}, name
    value, gradient = jax.jit(jax.value_and_grad(mean_nll))(half, tokens)
    exact, exact_gradient = jax.jit(jax.value_and_grad(mean_nll))(model, tokens)
    # 8 bits of mantissa: a percent or so of a loss near ln 61, and several of a gradient
    assert 0 < abs(float(value / exact) - 1) < 0.03
    for ours, theirs in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(exact_gradient), strict=True
    ):
        assert ours.dtype == jnp.float32
        assert jnp.linalg.norm(ours - theirs) < 0.15 * jnp.linalg.norm(theirs)


def test_a_norm_rounds_once():
    """To the bit: float32 throughout, then one rounding to the type of the activations."""
    x = (30 * jax.random.normal(jax.random.key(0), (64, 48))).astype(jnp.bfloat16)
    norm = RMSNorm(1 + 0.3 * jax.random.normal(jax.random.key(1), (48,)), 1e-5)
    exact = norm(x.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(norm(x)), np.asarray(exact))


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_mean_of_pieces_has_the_gradient_of_the_whole(grouped, dtype, cap):
    """Pieces of 3 tokens do not divide 19, and a factor comes from outside: one half, which costs no bit. Rounding is that of sums in another order."""
    spec, model, tokens = grouped
    arch = dataclasses.replace(spec.arch, logit_softcap=cap)
    model = dataclasses.replace(
        with_compute(model, dtype), spec=dataclasses.replace(spec, arch=arch)
    )
    whole, pieces = (
        jax.jit(jax.value_and_grad(lambda m, n=n: 0.5 * mean_nll(m, tokens, n)))(model)
        for n in (2**20, 3 * tokens.shape[0] * spec.vocab)
    )
    np.testing.assert_allclose(pieces[0], whole[0], rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(pieces[1]), jax.tree.leaves(whole[1]), strict=True):
        assert ours.dtype == theirs.dtype
        assert jnp.abs(ours - theirs).max() < 1e-5 * jnp.abs(theirs).max()


def test_the_mean_of_pieces_computes_no_logits_twice(grouped):
    """Products of the head a piece: scores, gradient of the states, gradient of the head."""
    spec, model, tokens = grouped
    n = 3 * tokens.shape[0] * spec.vocab
    text = jax.jit(jax.grad(lambda m: mean_nll(m, tokens, n))).lower(model).as_text()
    dots = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert sum(bool(re.search(rf"[<x]{spec.vocab}x", line)) for line in dots) == 3


def test_no_exponential_of_the_vocabulary_is_taken_twice(grouped):
    """The terms of the sum are kept for the gradient: one exponential a logit, on every platform."""
    spec, model, tokens = grouped
    step = jax.jit(jax.grad(lambda m: mean_nll(m, tokens, 3 * tokens.shape[0] * spec.vocab)))
    for platform in ("cpu", "cuda", "tpu"):
        text = step.trace(model).lower(lowering_platforms=(platform,)).as_text()
        exps = [line for line in text.splitlines() if "stablehlo.exponential" in line]
        assert sum(f"x{spec.vocab}xf32" in line for line in exps) == 1, platform


def test_pieces_of_a_bfloat16_batch_add_up_in_float32(grouped):
    """The head's gradient is a sum over pieces: 19 roundings to 8 bits would show as some 1e-2."""
    spec, model, tokens = grouped
    half = with_compute(first_layer(model), "bfloat16")
    whole, pieces = (
        jax.jit(jax.grad(lambda m, n=n: jnp.sum(token_nll(m, tokens, logits_at_once=n))))(half).head
        for n in (2**20, 3 * spec.vocab)
    )
    assert jnp.abs(whole - pieces).max() < 1e-5 * jnp.abs(whole).max()


def test_the_type_of_the_leaves_does_not_set_the_type_of_the_products(grouped):
    _, model, tokens = grouped
    stored = jax.tree.map(lambda a: a.astype(jnp.bfloat16), model)
    assert jax.eval_shape(stored, tokens).dtype == jnp.float32
    widened = jax.tree.map(lambda a: a.astype(jnp.float32), stored)
    np.testing.assert_array_equal(jax.jit(logits)(stored, tokens), jax.jit(logits)(widened, tokens))


@pytest.mark.parametrize("remat", ["block", "dots"])
def test_recomputing_changes_nothing_but_rounding(grouped, remat):
    """The same sums, compiled another way: float32 rounding, 1e-5 of a gradient's largest entry."""
    _, model, tokens = grouped
    plain, again = (
        jax.jit(jax.value_and_grad(mean_nll))(m, tokens)
        for m in (model, with_compute(model, remat=remat))
    )
    np.testing.assert_allclose(again[0], plain[0], rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(again[1]), jax.tree.leaves(plain[1]), strict=True):
        assert jnp.abs(ours - theirs).max() < 1e-5 * jnp.abs(theirs).max()


def test_recomputing_saves_memory_where_the_loop_would_be_written_out():
    """As the compiler states it; by a factor, not by chance."""
    spec = ModelSpec(32, 6, 2, 2, 16, 128, 64)
    assert spec.num_layers <= UNROLLED_LAYERS
    scratch = {}
    for remat in ("none", "dots", "block"):
        model = eqx.filter_eval_shape(
            init_model, spec, key=jax.random.key(0), compute=ComputeSpec(remat=remat)
        )
        tokens = jax.ShapeDtypeStruct((4, 129), jnp.int32)
        step = jax.jit(jax.grad(mean_nll)).lower(model, tokens).compile()
        scratch[remat] = step.memory_analysis().temp_size_in_bytes
    assert scratch["block"] < 0.8 * scratch["dots"] < 0.8 * 0.8 * scratch["none"], scratch


def test_the_program_does_not_grow_with_depth():
    def num_lines(num_layers):
        spec = dataclasses.replace(GROUPED, num_layers=num_layers)
        model = eqx.filter_eval_shape(init_model, spec, key=jax.random.key(0))
        tokens = jax.ShapeDtypeStruct((2, 17), jnp.int32)
        return len(jax.jit(jax.grad(mean_nll)).lower(model, tokens).as_text().splitlines())

    assert num_lines(UNROLLED_LAYERS + 1) == num_lines(64)


def test_standard_initial_weights():
    """Every matrix at 0.02, within five standard errors; the head is a draw of its own."""
    spec = ModelSpec(128, 2, 2, 2, 32, 384, 1024)
    model = init_model(spec, key=jax.random.key(3), init="standard")
    blocks = model.blocks
    for leaf in (blocks.attention.query, blocks.mlp.down, model.embedding, model.head):
        assert abs(float(leaf.std()) / 0.02 - 1) < 5 / math.sqrt(2 * leaf.size)
        assert float(jnp.abs(leaf).max()) > 3 * 0.02  # not cut
    norms = (blocks.attention_norm, blocks.attention.query_norm, model.final_norm)
    assert all((norm.weight == 1).all() for norm in norms)
    shared = np.corrcoef(np.ravel(model.head), np.ravel(model.embedding))[0, 1]
    assert abs(shared) < 5 / math.sqrt(model.head.size)
    with pytest.raises(UserError, match="'released' or 'standard'"):
        init_model(spec, key=jax.random.key(3), init="xavier")


def test_a_run_says_how_its_model_starts_and_computes():
    run = RunSpec("r", "c", (("d", 1.0),), 1e12, GROUPED, OptimSpec(0.01), 8, 2, 4)
    compute = ComputeSpec("bfloat16", "block")
    other = dataclasses.replace(run, init="standard", compute=compute)
    assert from_json(RunSpec, to_json(other)) == other
    plain = jax.eval_shape(lambda: start_state(run))
    assert plain.model.compute == ComputeSpec()
    state = start_state(other)
    assert state.model.compute == compute
    assert abs(float(state.model.head.std()) / 0.02 - 1) < 0.1
    tokens, hyper = jnp.ones((2, 9), jnp.int32), hyper_of(other.optim, 4)
    after, metrics = jax.eval_shape(train_step, state, tokens, hyper)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((after.model, metrics))} == {"float32"}


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
            inspect.unwrap(token_nll)(model, bad)  # its own words, where shapes are checked too


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sloped", [False, True])
def test_a_tpus_products_of_the_loss_are_those_of_a_cpu(dtype, sloped):
    """`_products_unwritten` runs on TPUs alone; the bound is that of a sum of 64 or 30 rounded terms in another order."""
    from relscale.model import loss

    keys = jax.random.split(jax.random.key(0), 5)
    scores = 3 * jax.random.normal(keys[0], (30, 64))
    parts = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    slope = jax.random.uniform(keys[1], parts.shape, dtype) if sloped else None
    targets = jax.random.randint(keys[2], (30,), 0, 64)
    kept = (parts.astype(dtype), slope, targets, parts.sum(axis=-1))
    rows, head = (jax.random.normal(k, s, dtype) for k, s in ((keys[3], (30, 8)), (keys[4], (64, 8))))  # fmt: skip
    exact = jax.jit(loss._products_written)(kept, rows, head)
    for ours, theirs in zip(
        jax.jit(loss._products_unwritten)(kept, rows, head), exact, strict=True
    ):
        assert ours.dtype == theirs.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * jnp.abs(theirs).max())

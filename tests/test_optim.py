"""The optimizers against float64 transcriptions of their papers, optax, and a schedule by hand."""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from relscale.core import UserError
from relscale.model.decoder import init_model
from relscale.model.optim import (
    decay_mask,
    hyper_of,
    init_state,
    learning_rate_at,
    make_optimizer,
    matrix_mask,
    orthogonalise,
    update,
    wsd_schedule,
)
from relscale.model.training import start_state, train_step
from relscale.plan.spec import ModelSpec, OptimSpec, RunSpec, from_dict, from_json, to_dict, to_json

STEPS, CLIP = 50, 80.0
SMALL = ModelSpec(8, 3, 2, 1, 4, 20, 16)  # square, wide and tall matrices, three layers, all norms
HIDDEN = {f".blocks.attention.{name}" for name in ("query", "key", "value", "output")}
HIDDEN |= {f".blocks.mlp.{name}" for name in ("gate", "up", "down")}
LEFT_OUT = ("value", "output", "up", "key_norm", "mlp_norm")  # like others, and time to compile
DECAYED = HIDDEN | {".head"}
PLAIN = {"cautious": False, "corrected_decay": False}
MUON = PLAIN | {"rule": "muon", "momentum": 0.9, "adam_learning_rate": 0.004}
VARIANTS = {
    "adamw": PLAIN,
    "adamc": {"cautious": False},
    "adamc but the head": {"cautious": False, "corrected_leaves": "normalised"},
    "cautious-adamw": {"corrected_decay": False},
    "c-adamc": {},
    "c-adamc by layer": {"mask_mean": "layer"},
    "muon": MUON,
}


def spec_of(variant, **changes):
    # a decay large enough that a wrong one shows, and a clip that acts on most steps
    fields = {"beta1": 0.9, "beta2": 0.98, "weight_decay": 0.3, "warmup": 0.1, "clip_norm": CLIP}
    return OptimSpec(0.03, **fields | VARIANTS[variant] | changes)


def by_path(tree):
    return {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def start_and_gradients():
    """A decoder's leaves by path, and 50 gradients: a drift, noise, a scale for each leaf and step."""
    random = np.random.default_rng(5)
    shapes = by_path(jax.eval_shape(lambda: init_model(SMALL, key=jax.random.key(0))))
    start = {
        k: random.normal(size=s.shape)
        for k, s in shapes.items()
        if not any(name in k.split(".") for name in LEFT_OUT)
    }
    drift = {k: random.normal(size=s.shape) for k, s in start.items()}
    scale = dict(zip(start, 10 ** random.uniform(-2, 0.5, len(start)), strict=True))
    grads = [
        {k: size * scale[k] * (drift[k] + 2 * random.normal(size=drift[k].shape)) for k in start}
        for size in 10 ** random.uniform(-0.3, 0.3, STEPS)
    ]
    return start, grads


def orthogonalised(matrix):
    """Newton-Schulz as published, for one weight in the orientation [out, in]."""
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    if x.shape[0] > x.shape[1]:
        return orthogonalised(matrix.T).T
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def transcription(spec, start, grads):
    """The rules as their papers write them, one leaf and one step at a time, float64."""
    theta = {k: v.copy() for k, v in start.items()}
    m = {k: np.zeros_like(v) for k, v in start.items()}
    v = {k: np.zeros_like(v) for k, v in start.items()}
    warm, cool = int(spec.warmup * STEPS), int(spec.decay * STEPS)
    for t in range(1, STEPS + 1):
        done = t - 1
        if done < warm:
            share = done / warm
        elif done < STEPS - cool:
            share = 1
        else:
            share = 1 - (done - (STEPS - cool)) / cool
        length = np.sqrt(sum((g**2).sum() for g in grads[done].values()))
        for k in theta:
            g = grads[done][k] * min(1, spec.clip_norm / length)
            if spec.rule == "muon" and k in HIDDEN:
                eta, b = share * spec.learning_rate, spec.momentum
                m[k] = b * m[k] + (1 - b) * g
                ahead = (1 - b) * g + b * m[k]
                for layer in range(len(ahead)):
                    u = orthogonalised(ahead[layer].T)
                    u = u * np.sqrt(max(1, u.shape[0] / u.shape[1]))
                    theta[k][layer] *= 1 - eta * spec.weight_decay
                    theta[k][layer] -= eta * u.T
                continue
            peak = spec.adam_learning_rate or spec.learning_rate
            eta = share * peak
            m[k] = spec.beta1 * m[k] + (1 - spec.beta1) * g
            v[k] = spec.beta2 * v[k] + (1 - spec.beta2) * g**2
            u = m[k] / (1 - spec.beta1**t) / (np.sqrt(v[k] / (1 - spec.beta2**t)) + spec.eps)
            if spec.cautious:
                mask = (g * u > 0).astype(float)
                by_layer = spec.mask_mean == "layer" and k.startswith(".blocks")
                for part in range(len(mask)) if by_layer else [slice(None)]:
                    u[part] *= mask[part] / (mask[part].mean() + spec.eps)
            if k in DECAYED:
                corrected = spec.corrected_decay and (
                    k in HIDDEN or spec.corrected_leaves == "decayed"
                )
                u = u + spec.weight_decay * (eta / peak if corrected else 1) * theta[k]
            theta[k] = theta[k] - eta * u
    return theta


step = jax.jit(update)


def ours(spec, start, grads):
    params = jax.tree.map(jnp.asarray, start)
    state, hyper = init_state(params, spec.rule), hyper_of(spec, STEPS)
    for g in grads:
        updates, state = step(jax.tree.map(jnp.asarray, g), state, params, hyper)
        params = {k: params[k] + updates[k] for k in params}
    return params


def worst(params, reference):
    return max(
        np.abs(params[k] - reference[k]).max() / np.abs(reference[k]).max() for k in reference
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_fifty_steps_of_every_variant(variant):
    """In float64 the rule and its transcription differ by rounding alone; Newton-Schulz amplifies
    what is small by up to 3.4 a step, in each of 50 updates.
    """
    start, grads = start_and_gradients()
    spec = spec_of(variant)
    with jax.enable_x64(True):
        assert worst(ours(spec, start, grads), transcription(spec, start, grads)) < 1e-12


@pytest.mark.parametrize(("variant", "bound"), [("c-adamc", 3e-6), ("muon", 3e-5)])
def test_float32_stays_close(variant, bound):
    """Fifty float32 updates of size 0.03: rounding adds up to about 1e-6 of the weights, and to
    ten times that where Newton-Schulz amplifies it.
    """
    start, grads = start_and_gradients()
    start, grads = jax.tree.map(np.float32, (start, grads))
    spec = spec_of(variant)
    reference = transcription(spec, *jax.tree.map(np.float64, (start, grads)))
    assert worst(ours(spec, start, grads), reference) < bound


def test_the_variants_differ():
    """So that a switch which does nothing cannot pass the test above."""
    start, grads = start_and_gradients()
    ends = [transcription(spec_of(v), start, grads) for v in VARIANTS]
    for i, one in enumerate(ends):
        for other in ends[:i]:
            assert worst(one, other) > 1e-3


def test_the_clip_acts_on_most_steps():
    """So that its order in the rule is under test, and so is its absence."""
    _, grads = start_and_gradients()
    lengths = [np.sqrt(sum((g**2).sum() for g in step.values())) for step in grads]
    assert 0.5 < np.mean([length > CLIP for length in lengths]) < 0.9


@pytest.mark.parametrize("phases", [{}, {"warmup": 0.0, "decay": 0.0}], ids=["wsd", "constant"])
def test_adamw_is_optax_clip_then_adamw(phases):
    start, grads = start_and_gradients()
    spec = spec_of("adamw", **phases)
    schedule = wsd_schedule(spec.learning_rate, STEPS, spec.warmup, spec.decay)
    theirs = optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(
            schedule if spec.warmup else spec.learning_rate,
            spec.beta1,
            spec.beta2,
            spec.eps,
            weight_decay=spec.weight_decay,
            mask={k: k in DECAYED for k in start},
        ),
    )
    assert worst(ours(spec, *float32s(start, grads)), optax_end(theirs, start, grads)) < 1e-5


def float32s(*trees):
    return jax.tree.map(np.float32, trees)


def optax_end(optimizer, start, grads, state=None):
    start, grads = float32s(start, grads)
    params = jax.tree.map(jnp.asarray, start)
    state, step = state or optimizer.init(params), jax.jit(optimizer.update)
    for g in grads:
        updates, state = step(jax.tree.map(jnp.asarray, g), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_make_optimizer_is_update():
    start, grads = start_and_gradients()
    for variant in ("c-adamc", "muon"):
        spec = spec_of(variant)
        end = optax_end(make_optimizer(spec, STEPS), start, grads)
        assert worst(end, ours(spec, *float32s(start, grads))) < 1e-5  # numbers as constants


def test_muon_is_optax_muon_without_its_bias_correction():
    """optax divides momentum and gradient by 1 - beta^t before it mixes them, and Jordan does not.
    A state that has counted far takes that out; the scale sqrt(max(1, out / in)) is its default.
    """
    start, grads = start_and_gradients()
    start, *grads = ({k: tree[k] for k in start if k in HIDDEN} for tree in (start, *grads))
    spec = spec_of("muon", warmup=0.0, decay=0.0, clip_norm=1e9)
    theirs = optax.contrib.muon(
        spec.learning_rate,
        beta=spec.momentum,
        eps=1e-7,
        weight_decay=spec.weight_decay,
        muon_weight_dimension_numbers={k: optax.contrib.MuonDimensionNumbers(1, 2) for k in start},
    )
    fresh = theirs.init(jax.tree.map(jnp.float32, start))
    late = optax.tree.set(fresh, count=jnp.asarray(10_000, jnp.int32))
    mine = ours(spec, *float32s(start, grads))
    assert worst(mine, optax_end(theirs, start, grads, late)) < 1e-4  # float32 on both sides
    assert worst(mine, optax_end(theirs, start, grads, fresh)) > 1e-3


def test_orthogonalised_singular_values_lie_in_the_known_band():
    """Five steps carry [0.01, 1] into [0.68, 1.14] (13_optim computes it); vectors stay. The update is
    read through `update`, so it carries the scale sqrt(out / in) of a widening matrix.
    """
    random = np.random.default_rng(0)
    spec = spec_of("muon", weight_decay=0.0, warmup=0.0)
    for rows, cols in ((6, 6), (6, 24), (24, 6)):
        u, v = (np.linalg.qr(random.normal(size=(2, n, 6)))[0] for n in (rows, cols))
        spectrum = np.geomspace(0.02, 1, 6)
        grad = (u * spectrum) @ v.swapaxes(1, 2)
        params = {".blocks.weight": jnp.zeros((2, rows, cols))}
        grads = {".blocks.weight": jnp.float32(grad)}
        updates, _ = update(grads, init_state(params, "muon"), params, hyper_of(spec, STEPS))
        inner = u.swapaxes(1, 2) @ np.float64(updates[".blocks.weight"]) @ v
        inner /= -spec.learning_rate * max(1, cols / rows) ** 0.5
        values = np.diagonal(inner, axis1=1, axis2=2)
        assert values.min() > 0.67 and values.max() < 1.15
        np.testing.assert_allclose(inner - values[:, :, None] * np.eye(6), 0, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_muon_does_not_see_the_length_of_the_gradient(factor):
    """But for the 1e-7 beside the norm; the norms here are about 1 and more."""
    start, grads = float32s(*start_and_gradients())
    spec = spec_of("muon", clip_norm=1e9)
    scaled = [{k: np.float32(factor) * g[k] for k in g} for g in grads]
    one, other = (
        {k: v for k, v in ours(spec, start, g).items() if k in HIDDEN} for g in (grads, scaled)
    )
    assert worst(one, other) < 1e-4


def test_muon_takes_layers_one_by_one():
    """Another gradient in the last layer moves that layer alone, when nothing is clipped."""
    start, grads = float32s(*start_and_gradients())
    spec = spec_of("muon", clip_norm=1e9)
    other = [dict(g) for g in grads]
    for g in other:
        g[".blocks.mlp.down"] = g[".blocks.mlp.down"] * np.float32([1, 1, -1])[:, None, None]
    one, two = (ours(spec, start, g)[".blocks.mlp.down"] for g in (grads, other))
    np.testing.assert_allclose(one[:2], two[:2], rtol=1e-5, atol=1e-6)
    assert np.abs(one[2] - two[2]).max() > 0.1


def test_bfloat16_newton_schulz_is_near():
    """Bfloat16 keeps two to three digits: up to 0.05 of a unit singular value was measured. With the three
    coefficients rounded too it is 0.13.
    """
    matrices = jax.random.normal(jax.random.key(3), (2, 16, 48))
    full, rough = orthogonalise(matrices), orthogonalise(matrices, "bfloat16")
    assert rough.dtype == jnp.float32
    apart = jnp.linalg.norm(full - rough, ord=2, axis=(1, 2))
    assert apart.min() > 1e-3 and apart.max() < 0.08
    values = jnp.linalg.svd(rough, compute_uv=False)
    assert values.min() > 0.66 and values.max() < 1.16


def test_what_muon_moves():
    model = jax.eval_shape(lambda: init_model(SMALL, key=jax.random.key(0)))
    assert {k for k, flag in by_path(matrix_mask(model)).items() if flag} == HIDDEN
    state = by_path(jax.eval_shape(lambda: init_state(model_of(SMALL), "muon")).second)
    assert {k for k, leaf in state.items() if leaf.shape == ()} == HIDDEN


def model_of(spec):
    return init_model(spec, key=jax.random.key(0))


def test_a_mask_of_ones_is_no_mask():
    """Where every gradient keeps its sign, caution changes nothing but the order of roundings."""
    start, grads = float32s(*start_and_gradients())
    grads = [jax.tree.map(np.abs, g) for g in grads]
    for kept in ("stacked", "layer"):
        careful = ours(spec_of("c-adamc", mask_mean=kept), start, grads)
        assert worst(careful, ours(spec_of("adamc"), start, grads)) < 5e-7


def test_an_entry_without_gradient_stays_where_it_is():
    """Momentum alone agrees with nothing: masked, and counted as masked in the mean (1[g u > 0]).

    With half of the entries let through the others step twice as far; >= 0 would move both, once.
    """
    spec = OptimSpec(0.1, warmup=0.0, decay=0.0, weight_decay=0.0)
    hyper, params = hyper_of(spec, 4), {"weight": jnp.zeros(2)}
    _, state = update({"weight": jnp.full(2, 0.1)}, init_state(params), params, hyper)
    plain = dataclasses.replace(spec, cautious=False)
    grads = {"weight": jnp.array([0.1, 0.0])}
    step, _ = update(grads, state, params, hyper)
    free, _ = update(grads, state, params, hyper_of(plain, 4))
    assert float(step["weight"][0]) == pytest.approx(2 * float(free["weight"][0]), rel=1e-6)
    assert step["weight"][1] == 0 and free["weight"][1] < 0


def test_one_layer_has_one_mask_mean():
    start, grads = float32s(*start_and_gradients())
    start, grads = (
        jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf[:1] if "blocks" in jax.tree_util.keystr(path) else leaf, tree
        )
        for tree in (start, grads)
    )
    ends = [ours(spec_of(v), start, grads) for v in ("c-adamc", "c-adamc by layer")]
    assert worst(*ends) < 1e-6


def test_a_model_trains_with_muon():
    """The training step takes the spec as it is: the loss on one batch falls, in one program."""
    spec = OptimSpec(0.02, **PLAIN, rule="muon", adam_learning_rate=0.01)
    run = RunSpec("muon", "all", (), 1.0, SMALL, spec, 8, 4, 30)
    assert from_json(RunSpec, to_json(run)) == run
    state, hyper = start_state(run), hyper_of(spec, run.num_steps)
    tokens = jax.random.randint(jax.random.key(0), (4, 9), 0, SMALL.vocab)
    before, losses = train_step._cache_size(), []
    for _ in range(run.num_steps):
        state, metrics = train_step(state, tokens, hyper)
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.5 * losses[0]
    train_step(state, tokens, hyper_of(dataclasses.replace(spec, momentum=0.8, beta2=0.9), 77))
    assert train_step._cache_size() == before + 1


@pytest.mark.parametrize("warmup", [0.05, 0.1])
@pytest.mark.parametrize("lengths", [range(1, 65), [32_844]], ids=["short", "published"])
def test_schedule_is_exact_at_every_step(lengths, warmup):
    """Both warm-ups on offer, against fractions; the bound is two roundings of float32."""
    rate_at = jax.jit(jax.vmap(learning_rate_at, in_axes=(0, None)))
    for num_steps in lengths:
        warm, cool = int(warmup * num_steps), int(0.2 * num_steps)
        rising = [Fraction(t, warm) for t in range(warm)]
        falling = [Fraction(cool - i, cool) for i in range(cool)]
        exact = rising + [Fraction(1)] * (num_steps - warm - cool) + falling
        hyper = hyper_of(OptimSpec(0.01, warmup=warmup), num_steps)
        rates = np.asarray(rate_at(jnp.arange(max(lengths)), hyper))
        np.testing.assert_allclose(
            rates[:num_steps], 0.01 * np.array(exact, dtype=float), rtol=3e-7
        )
        if cool:
            assert not rates[num_steps:].any()
        assert rates[0] == (0 if warm else np.float32(0.01))


def test_schedule_by_hand():
    """Seven and a half warm-up steps are seven; a fifth of 13 is two."""
    schedule = wsd_schedule(2.0, num_steps=13, warmup=0.27, decay=0.2)  # 3 up, 8 flat, 2 down
    table = [0, 2 / 3, 4 / 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 0, 0]
    np.testing.assert_allclose([schedule(t) for t in range(15)], table, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule))(jnp.arange(15)), table, rtol=1e-6)


@pytest.mark.parametrize(
    ("num_steps", "warmup", "decay", "table"),
    [
        (4, 0.0, 0.0, [1, 1, 1, 1]),
        (4, 0.0, 1.0, [1, 3 / 4, 2 / 4, 1 / 4]),
        (4, 1.0, 0.0, [0, 1 / 4, 2 / 4, 3 / 4]),
        (1, 0.05, 0.2, [1]),
        (20, 0.05, 0.2, [0] + [1] * 16 + [3 / 4, 2 / 4, 1 / 4]),
    ],
)
def test_schedule_at_its_edges(num_steps, warmup, decay, table):
    schedule = wsd_schedule(1.0, num_steps, warmup, decay)
    np.testing.assert_allclose(schedule(jnp.arange(num_steps)), table, rtol=1e-6)


def test_the_published_run_lengths():
    """The count of the longest published run, 821,098 steps, is exact in float32."""
    schedule = wsd_schedule(1.0, 821_098, 0.05, 0.2)
    last, before = float(schedule(821_097)), float(schedule(41_053))
    assert last == pytest.approx(1 / 164_219, rel=1e-6)
    assert before == pytest.approx(41_053 / 41_054, abs=1e-7) and float(schedule(41_054)) == 1


@pytest.mark.parametrize("tied", [False, True])
def test_what_decays(tied):
    spec = ModelSpec(16, 2, 2, 2, 8, 32, 64, tied=tied)
    model = jax.eval_shape(lambda: init_model(spec, key=jax.random.key(0)))
    flags = {
        jax.tree_util.keystr(path): flag
        for path, flag in jax.tree_util.tree_leaves_with_path(decay_mask(model))
    }
    projections = {f".blocks.attention.{n}" for n in ("query", "key", "value", "output")}
    projections |= {f".blocks.mlp.{n}" for n in ("gate", "up", "down")}
    assert {p for p, flag in flags.items() if flag} == projections | (set() if tied else {".head"})


def test_bad_choices_are_named():
    with pytest.raises(UserError, match="add up to 1"):
        wsd_schedule(1.0, 10, 0.6, 0.6)
    with pytest.raises(UserError, match="at least one step"):
        hyper_of(OptimSpec(0.1), 0)
    optimizer = make_optimizer(OptimSpec(0.1), 10)
    params = {"weight": jnp.ones(2)}
    with pytest.raises(UserError, match="params="):
        optimizer.update(params, optimizer.init(params))


def test_bfloat16_gradients_keep_float32_moments():
    params = {"weight": jnp.ones((4, 4), jnp.bfloat16)}
    updates, state = jax.jit(update)(
        params, init_state(params), params, hyper_of(OptimSpec(0.1, warmup=0.0), 5)
    )
    assert updates["weight"].dtype == jnp.bfloat16
    assert state.first["weight"].dtype == state.second["weight"].dtype == jnp.float32


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gradient_of_zeros_moves_only_by_decay(variant):
    """0 / (sqrt(0) + eps) is 0, a mask of zeros over a mean of zero is 0, and so is 0 / (0 + 1e-7)."""
    params = {"weight": jnp.ones((4, 4)), "norm": jnp.ones(4)}
    spec = OptimSpec(0.1, warmup=0.0, weight_decay=0.5, **VARIANTS[variant])
    updates, _ = update(
        jax.tree.map(jnp.zeros_like, params),
        init_state(params, spec.rule),
        params,
        hyper_of(spec, 5),
    )
    np.testing.assert_allclose(updates["weight"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["norm"], 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rule": "muon"}, "set cautious=False, corrected_decay=False"),
        (PLAIN | {"rule": "muon"}, "set adam_learning_rate"),
        (PLAIN | {"rule": "sgd"}, "choose one of adam, muon"),
        ({"momentum": 0.9}, "under rule='muon' alone"),
        ({"newton_schulz": "bfloat16"}, "under rule='muon' alone"),
        ({"adam_learning_rate": 0.1}, "under rule='muon' alone"),
        (PLAIN | {"mask_mean": "layer"}, "under cautious=True alone"),
        (PLAIN | {"corrected_leaves": "normalised"}, "under corrected_decay=True alone"),
        (MUON | {"momentum": 1.0}, "momentum=1.0: must be in"),
        (MUON | {"adam_learning_rate": 0.0}, "adam_learning_rate=0.0: must be positive"),
        ({"eps": 0.0}, "eps=0.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"warmup": float("nan")}, "warmup=nan"),
    ],
)
def test_nonsense_is_refused_in_one_line(fields, message):
    with pytest.raises(UserError, match=message) as error:
        OptimSpec(0.1, **fields)
    assert "\n" not in str(error.value)


def test_json_keeps_the_spec_and_refuses_others():
    spec = spec_of("muon", newton_schulz="bfloat16")
    assert spec.name == "muon" and from_dict(OptimSpec, to_dict(spec)) == spec
    assert from_dict(OptimSpec, {"learning_rate": 0.1}) == OptimSpec(0.1)
    with pytest.raises(UserError, match="OptimSpec.rule: 'sgd' is not one of 'adam', 'muon'"):
        from_dict(OptimSpec, to_dict(spec) | {"rule": "sgd"})

"""The optimizers against float64 transcriptions of their papers, optax, and a schedule by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from relscale.core import UserError
from relscale.model import init_model
from relscale.optim import decay_mask, hyper_of, init_state, make_optimizer, update, wsd_schedule
from relscale.spec import ModelSpec, OptimSpec

STEPS = 50
DECAYED = {"embedding": False, "head": True, "blocks.weight": True, "blocks.norm": False}
SHAPES = {"embedding": (5, 3), "head": (5, 3), "blocks.weight": (2, 3, 4), "blocks.norm": (2, 3)}
VARIANTS = {
    "adamw": {"cautious": False, "corrected_decay": False},
    "adamc": {"cautious": False, "corrected_decay": True},
    "cautious-adamw": {"cautious": True, "corrected_decay": False},
    "c-adamc": {"cautious": True, "corrected_decay": True},
    "c-adamc by layer": {"cautious": True, "corrected_decay": True, "mask_mean": "layer"},
}


def spec_of(variant):
    # a decay large enough that a wrong one shows, and a clip that acts on most steps
    return OptimSpec(
        0.03,
        beta1=0.9,
        beta2=0.98,
        weight_decay=0.3,
        warmup=0.1,
        clip_norm=5.0,
        **VARIANTS[variant],
    )


def start_and_gradients():
    random = np.random.default_rng(5)
    start = {k: random.normal(size=s) for k, s in SHAPES.items()}
    grads = [{k: random.normal(size=s) for k, s in SHAPES.items()} for _ in range(STEPS)]
    return start, grads


def transcription(spec, start, grads):
    """AdamW and its relatives as their papers write them, one leaf and one step at a time, float64."""
    theta = {k: v.copy() for k, v in start.items()}
    m = {k: np.zeros_like(v) for k, v in start.items()}
    v = {k: np.zeros_like(v) for k, v in start.items()}
    warm, cool = int(spec.warmup * STEPS), int(spec.decay * STEPS)
    for t in range(1, STEPS + 1):
        done = t - 1
        if done < warm:
            eta = spec.learning_rate * done / warm
        elif done < STEPS - cool:
            eta = spec.learning_rate
        else:
            eta = spec.learning_rate * (1 - (done - (STEPS - cool)) / cool)
        length = np.sqrt(sum((g**2).sum() for g in grads[done].values()))
        for k in theta:
            g = grads[done][k] * min(1, spec.clip_norm / length)
            m[k] = spec.beta1 * m[k] + (1 - spec.beta1) * g
            v[k] = spec.beta2 * v[k] + (1 - spec.beta2) * g**2
            u = m[k] / (1 - spec.beta1**t) / (np.sqrt(v[k] / (1 - spec.beta2**t)) + spec.eps)
            if spec.cautious:
                mask = (g * u > 0).astype(float)
                by_layer = spec.mask_mean == "layer" and k.startswith("blocks")
                for part in range(len(mask)) if by_layer else [slice(None)]:
                    u[part] *= mask[part] / (mask[part].mean() + spec.eps)
            if DECAYED[k]:
                u = (
                    u
                    + spec.weight_decay
                    * (eta / spec.learning_rate if spec.corrected_decay else 1)
                    * theta[k]
                )
            theta[k] = theta[k] - eta * u
    return theta


def ours(spec, start, grads):
    step = jax.jit(update)
    params = jax.tree.map(jnp.asarray, start)
    state, hyper = init_state(params), hyper_of(spec, STEPS)
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
    """In float64 the rule and its transcription differ by rounding alone."""
    start, grads = start_and_gradients()
    spec = spec_of(variant)
    with jax.enable_x64(True):
        assert worst(ours(spec, start, grads), transcription(spec, start, grads)) < 1e-12


def test_float32_stays_close():
    """Fifty float32 updates of size 0.03: rounding adds up to about 1e-6 of the weights."""
    start, grads = start_and_gradients()
    start, grads = jax.tree.map(np.float32, (start, grads))
    spec = spec_of("c-adamc")
    reference = transcription(spec, *jax.tree.map(np.float64, (start, grads)))
    assert worst(ours(spec, start, grads), reference) < 3e-6


def test_the_variants_differ():
    """So that a switch which does nothing cannot pass the test above."""
    start, grads = start_and_gradients()
    ends = [transcription(spec_of(v), start, grads) for v in VARIANTS]
    for i, one in enumerate(ends):
        for other in ends[:i]:
            assert worst(one, other) > 1e-3


def test_adamw_is_optax_clip_then_adamw():
    start, grads = start_and_gradients()
    spec = spec_of("adamw")
    schedule = wsd_schedule(spec.learning_rate, STEPS, spec.warmup, spec.decay)
    theirs = optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(
            schedule, spec.beta1, spec.beta2, spec.eps, weight_decay=spec.weight_decay, mask=DECAYED
        ),
    )
    ends = []
    for optimizer in (theirs, make_optimizer(spec, STEPS)):
        params = jax.tree.map(jnp.float32, start)
        state, step = optimizer.init(params), jax.jit(optimizer.update)
        for g in grads:
            updates, state = step(jax.tree.map(jnp.float32, g), state, params)
            params = optax.apply_updates(params, updates)
        ends.append(params)
    assert worst(ends[1], ends[0]) < 3e-6  # float32 on both sides


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


def test_a_gradient_of_zeros_moves_only_by_decay():
    """0 / (sqrt(0) + eps) is 0, and a mask of zeros over a mean of zero is 0, never nan."""
    params = {"weight": jnp.ones((4, 4)), "norm": jnp.ones(4)}
    spec = OptimSpec(0.1, warmup=0.0, weight_decay=0.5)
    updates, _ = update(
        jax.tree.map(jnp.zeros_like, params), init_state(params), params, hyper_of(spec, 5)
    )
    np.testing.assert_allclose(updates["weight"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["norm"], 0)

"""Shapes in signatures are checked in the tests: see conftest.py."""

import inspect

import numpy as np
import pytest

pytest.importorskip("beartype", reason="shape checks need the extra `dev`")
jax = pytest.importorskip("jax", reason="training needs the extra `train`")

import jaxtyping  # noqa: E402
from conftest import ARMED  # noqa: E402

from relscale.model.decoder import MLP, init_model  # noqa: E402
from relscale.model.loss import token_nll  # noqa: E402
from relscale.model.mesh import make_mesh, place_rows  # noqa: E402
from relscale.model.optim import orthogonalise  # noqa: E402
from relscale.model.training import loss_and_grads  # noqa: E402
from relscale.plan.spec import ModelSpec  # noqa: E402

SPEC = ModelSpec(hidden=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp=32, vocab=64)
TOKENS = jax.numpy.zeros((2, 9), jax.numpy.int32)
MODEL = init_model(SPEC, key=jax.random.key(0))


def test_right_shapes_pass():
    assert token_nll(MODEL, TOKENS).shape == (2, 8)


@pytest.mark.parametrize(
    "call",
    [
        lambda: token_nll(MODEL, TOKENS.astype(float)),
        lambda: loss_and_grads(MODEL, TOKENS[0]),
        lambda: jax.jit(loss_and_grads)(MODEL, TOKENS[0]),
        lambda: orthogonalise(jax.numpy.ones(3)),
        lambda: place_rows(np.zeros(9, np.int32), make_mesh(devices=jax.devices()[:1]), 9),
        # gate and up of different widths would broadcast where one of them is 1
        lambda: MLP(*map(jax.numpy.ones, ((4, 8), (4, 1), (8, 4)))),
    ],
    ids=["float tokens", "one row", "one row, traced", "a vector", "rows", "a weight's width"],
)
def test_a_wrong_shape_is_refused(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_the_list_of_armed_modules_is_of_modules_with_shapes():
    for name in ARMED:
        assert "jaxtyping" in inspect.getsource(__import__(name, fromlist=["x"]))

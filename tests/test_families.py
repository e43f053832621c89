"""The decoder's families against their parts: shapes, parameters, FLOPs, prefixes, gradients, files, and what is refused."""

import dataclasses
import functools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from relscale.cli import main
from relscale.core import UserError
from relscale.eval.kv_cache import BLOCK, chain, new_prefix, read_rows
from relscale.model import attention
from relscale.model.attention import attend
from relscale.model.decoder import init_model, logits, rope_frequencies
from relscale.model.hf_config import FAMILIES, config_of_spec, family_of, spec_of_config
from relscale.model.hub import load_hf, save_hf
from relscale.model.loss import mean_nll, token_nll
from relscale.plan.flops import flop_ledger, forward_flops_per_token, param_counts
from relscale.plan.spec import Architecture, ComputeSpec, ModelSpec, RopeScaling, from_dict, to_dict
from relscale.tables import read_table
from relscale.text.tokenizer import train_tokenizer

BASE = ModelSpec(
    hidden=48, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=12, mlp=40, vocab=61,
    qk_norm=False, rope_scaling=None, rope_theta=5000.0,
)  # fmt: skip
MIXED = {"window": 9, "layers": ("local", "local", "global")}
OWN = {
    "qwen3": {},
    "llama": {"mlp_bias": True, "attention_bias": "all", "rope_linear": 2.0},
    "qwen2": {"window": 7, "layers": ("global", "local", "local")},
    "mistral": {"window": 9, "layers": ("local",)},
    "olmo2": {},
    "gemma2": MIXED | {"attention_softcap": 1.5, "logit_softcap": 2.0, "score_width": 6.0},
    "gemma3_text": MIXED | {"local_rope_theta": 100.0},
    "gpt_neox": {"attention_bias": "all", "parallel": True, "rotary_fraction": 0.5},
}


def spec_of(kind):
    family = FAMILIES[kind]
    act = "silu"
    if kind.startswith(("gemma", "gpt")):
        act = "gelu" if kind == "gpt_neox" else "gelu_tanh"
    arch = dataclasses.replace(family.shared, activation=act, **OWN[kind])
    keys = 4 if kind == "gpt_neox" else 2
    return dataclasses.replace(BASE, qk_norm=family.qk_norm, num_kv_heads=keys, arch=arch)


SPECS = {kind: spec_of(kind) for kind in FAMILIES}


def noisy(spec, compute=None):
    """Weights of order one over the root of the width, norms around what does nothing, biases off zero; nothing is compiled."""
    outline = eqx.filter_eval_shape(init_model, spec, key=jax.random.key(0), compute=compute)
    leaves, tree = jax.tree_util.tree_flatten_with_path(outline)
    rng, drawn = np.random.default_rng(0), []
    for path, leaf in leaves:
        one = "norm" in jax.tree_util.keystr(path) and jax.tree_util.keystr(path).endswith("weight")
        one = one and not spec.arch.norm_plus_one
        drawn.append(jnp.asarray(rng.normal(one, 0.2, leaf.shape), jnp.float32))
    return tree.unflatten(drawn)


@functools.cache
def model_of(kind):
    return noisy(SPECS[kind])


TOKENS = jnp.arange(40) * 37 % 61
states = jax.jit(lambda model, tokens: model(tokens))


@pytest.fixture(params=FAMILIES)
def kind(request):
    return request.param


def some(*now):
    """All families: these, which have most parts of their own, at once, and the others in `make long`."""
    return [
        kind if kind in now else pytest.param(kind, marks=pytest.mark.long) for kind in FAMILIES
    ]


def test_a_spec_survives_its_json_and_its_configuration(kind):
    """And says its family; a record of the default architecture is what it was before there were others."""
    spec = SPECS[kind]
    assert from_dict(ModelSpec, json.loads(json.dumps(to_dict(spec)))) == spec
    assert spec_of_config(json.loads(json.dumps(config_of_spec(spec)))) == spec
    assert family_of(spec) == kind == config_of_spec(spec)["model_type"]
    assert ("arch" in to_dict(spec)) == (spec.arch != Architecture())


def test_a_model_survives_its_folder(kind, tmp_path):
    model = model_of(kind)
    back = load_hf(save_hf(model, tmp_path / "m", shard_bytes=20_000))
    assert back.spec == model.spec
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gpt_neox"])
def test_no_token_sees_what_follows_or_what_its_window_leaves_out(kind):
    """To the bit: change one token, and no logit before it moves; with windows alone, none beyond their reach either."""
    model, run = model_of(kind), jax.jit(logits)
    before, after = run(model, TOKENS), run(model, TOKENS.at[4].set(60))
    moved = np.abs(np.asarray(before - after)).max(axis=-1)
    assert (moved[:4] == 0).all() and moved[4:6].min() > 0
    reach = 4 + sum((SPECS[kind].arch.window or 99) - 1 for _ in range(3)) + 1
    if all(SPECS[kind].local_layers):
        assert (moved[reach:] == 0).all() and moved[reach - 3] > 0
    else:
        assert moved[-1] > 0


@pytest.mark.long
def test_local_and_global_layers_in_turn_are_differentiated():
    """By strips and by blocks that are computed again: float32 rounding over two layers, 2e-5 of the largest entry."""
    spec = dataclasses.replace(SPECS["gemma2"], num_layers=2)
    spec = dataclasses.replace(
        spec, arch=dataclasses.replace(spec.arch, layers=("local", "global"))
    )
    model = noisy(spec)
    again = dataclasses.replace(model, compute=ComputeSpec(attention="blocks", remat="block"))
    batch = jnp.stack([TOKENS, TOKENS[::-1]])
    (a, da), (b, db) = (jax.jit(jax.value_and_grad(mean_nll))(m, batch) for m in (model, again))
    np.testing.assert_allclose(a, b, rtol=2e-6)
    for x, y in zip(jax.tree.leaves(da), jax.tree.leaves(db), strict=True):
        assert jnp.abs(x - y).max() < 2e-5 * (jnp.abs(x).max() + 1e-3)


def test_the_loss_of_capped_logits():
    """In pieces, value and gradient, against autodiff of a plain loss."""
    spec = dataclasses.replace(BASE, num_layers=1, arch=Architecture(logit_softcap=2.0))
    model, batch = noisy(spec), jnp.stack([TOKENS, TOKENS[::-1]])

    def plain(model):
        scores = jax.nn.log_softmax(logits(model, batch[:, :-1]))
        return -jnp.take_along_axis(scores, batch[:, 1:, None], axis=-1)[..., 0]

    ways = plain, lambda m: token_nll(m, batch, 2 * 16 * 61)
    weight = jnp.linspace(0.1, 1, 2 * 39).reshape(2, 39)
    sums = [jax.value_and_grad(lambda m, f=f: jnp.sum(weight * f(m))) for f in ways]
    found = jax.jit(lambda m: [f(m) for f in sums])(model)
    for value, gradient in found[1:]:
        np.testing.assert_allclose(value, found[0][0], rtol=1e-6)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(found[0][1]), strict=True):
            assert jnp.abs(a - b).max() < 2e-5 * (jnp.abs(b).max() + 1e-3)


@pytest.mark.parametrize("kind", some("gemma3_text", "gpt_neox"))
def test_prefixes_give_the_states_of_whole_texts(kind):
    """Three pieces, with padding: the first ends before a window does, the last goes beyond all windows.

    Float32 rounding on states of order one; a key too many or too few moves them by 0.01 and more.
    """
    model = model_of(kind)
    whole, prefix = states(model, TOKENS[None])[0], new_prefix(model, 64)
    for start, stop in ((0, 5), (5, 21), (21, 37)):
        hidden, prefix = read_rows(model, prefix, chain(TOKENS[start:stop], start, 16), True)
        np.testing.assert_allclose(hidden[0, : stop - start], whole[start:stop], atol=5e-5)


@pytest.mark.long
def test_windows_reach_over_blocks_of_the_cache():
    """A window of more than a block; the prefix ends in its third block, and one row is longer than a block."""
    arch = dataclasses.replace(SPECS["gemma2"].arch, window=BLOCK + 40, layers=("local", "global"))
    model = noisy(dataclasses.replace(SPECS["gemma2"], num_layers=2, arch=arch))
    text = np.random.default_rng(0).integers(0, 61, 3 * BLOCK)
    whole = states(model, jnp.asarray(text)[None])[0]
    cut = 2 * BLOCK - 100
    _, prefix = read_rows(model, new_prefix(model, 4 * BLOCK), chain(text[:cut]), True)
    hidden, _ = read_rows(model, prefix, chain(text[cut:], cut))
    np.testing.assert_allclose(hidden[0], whole[cut:], atol=1e-4)


def test_parameters_are_those_of_the_model_by_component(kind):
    spec, found = SPECS[kind], {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(model_of(kind)):
        name = jax.tree_util.keystr(path)
        parts = {"norm": "norms", "attention": "attention", "mlp": "mlp"}
        part = next((p for word, p in parts.items() if word in name), name.strip("."))
        found[part] = found.get(part, 0) + leaf.size
    counts = param_counts(spec)
    assert {part: counts[part] for part in found} == found
    assert counts["total"] == sum(found.values())
    ledger = flop_ledger(spec, 64)
    assert ledger["params"].sum() == counts["total"]


WIDE = {"hidden": 256, "head_dim": 64, "mlp": 512, "vocab": 512}


def test_flops_are_those_that_xla_counts(kind):
    """Of a forward pass within the window, all matrix products and nothing else: XLA adds norms, biases, activations,
    rotary embeddings and soft caps, some 2 % at these widths; a product left out or counted twice is 5 % and more."""
    spec = dataclasses.replace(SPECS[kind], **WIDE)
    # the error function of an exact GELU is a long polynomial, and no product depends on it
    spec = dataclasses.replace(spec, arch=dataclasses.replace(spec.arch, activation="silu"))
    if spec.arch.window:
        spec = dataclasses.replace(spec, arch=dataclasses.replace(spec.arch, window=64))
    if kind in ("gemma2", "gemma3_text"):  # a conditional is counted by both of its branches
        spec = dataclasses.replace(spec, arch=dataclasses.replace(spec.arch, layers=("local",)))
    plain = eqx.filter_eval_shape(
        init_model, spec, key=jax.random.key(0), compute=ComputeSpec(attention="plain")
    )
    tokens = jax.ShapeDtypeStruct((64,), jnp.int32)
    counted = jax.jit(logits).lower(plain, tokens).cost_analysis()["flops"]
    assert 1 <= counted / (64 * forward_flops_per_token(spec, 64)["total"]) < 1.03


def test_a_window_is_counted_by_its_keys():
    """By hand, and by XLA for one query block of attention against the keys that the ledger gives it."""
    arch = Architecture(window=32, layers=("local", "local", "global"))
    spec = dataclasses.replace(BASE, **WIDE, num_layers=6, arch=arch)
    parts = forward_flops_per_token(spec, 128)
    assert parts["attention"] == 4 * (4 * 32 + 2 * 128) * 4 * 64
    assert parts["softmax"] == 3 * (4 * 32 + 2 * 128) * 4
    query, key = (jax.ShapeDtypeStruct((1, n, 4, 64), jnp.float32) for n in (16, 32))
    counted = (
        jax.jit(functools.partial(jax.nn.dot_product_attention, implementation="xla"))
        .lower(query, key, key).cost_analysis()["flops"]
    )  # fmt: skip
    one = forward_flops_per_token(dataclasses.replace(spec, num_layers=1), 128)
    assert 1 <= counted / (16 * (one["attention"] + one["softmax"])) < 1.02


def test_a_window_of_the_whole_text_is_no_window():
    keys = jax.random.split(jax.random.key(0), 3)
    query, key, value = (jax.random.normal(k, (1, 20, 2, 8)) for k in keys)
    np.testing.assert_array_equal(
        attend(query, key, value, window=20), attend(query, key, value, window=None)
    )


@pytest.mark.parametrize(("window", "softcap"), [(9, None), (21, 1.5)])
def test_blocks_slide_over_the_keys(monkeypatch, window, softcap):
    """Four blocks of 16 queries, each with as many keys as it may see and no more, with gradients, against every score written down."""
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", 16)
    keys = jax.random.split(jax.random.key(0), 3)
    args = [jax.random.normal(k, (1, 55, n, 8)) for k, n in zip(keys, (4, 2, 2), strict=True)]

    def gradients(kernel):
        def loss(*args):
            return jnp.sum(jnp.sin(kernel(*args, window=window, softcap=softcap)))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*args)

    ours, plain = (gradients(k) for k in (attention.block_attention, attention.plain_attention))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_frequencies_of_each_kind_of_layer():
    """A quarter of 64 channels: eight pairs, of their own spacing; linear positions divide; local layers have their base."""
    neox = dataclasses.replace(BASE, head_dim=64, arch=Architecture(rotary_fraction=0.25))
    np.testing.assert_allclose(rope_frequencies(neox), 5000.0 ** -(np.arange(8) / 8))
    arch = dataclasses.replace(SPECS["gemma3_text"].arch, rope_linear=8.0)
    gemma = dataclasses.replace(BASE, arch=arch)
    np.testing.assert_allclose(rope_frequencies(gemma), 5000.0 ** -(np.arange(6) / 6) / 8)
    np.testing.assert_allclose(rope_frequencies(gemma, local=True), 100.0 ** -(np.arange(6) / 6))


WORDS = ["The cat sat on the mat, naïve café.", "Seven times two is fourteen.", "Grass is green."]


@pytest.mark.parametrize("kind", some("gpt_neox"))
def test_the_command_scores_a_folder(kind, tmp_path):
    """`relscale eval` on a folder of each family: log-probability of the right options, beside that of whole texts."""
    tokenizer, spec = train_tokenizer(WORDS * 20, 290), dataclasses.replace(SPECS[kind], vocab=296)
    folder = save_hf(noisy(spec), tmp_path / "m", tokenizer=tokenizer, max_positions=48)
    rows = [
        {"query": text, "choices": ["the mat", "green"], "gold": i % 2}
        for i, text in enumerate(WORDS)
    ]
    items = tmp_path / "arc_easy.jsonl"
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--tasks", "arc-easy", "--items", str(tmp_path), "--out", str(tmp_path / "o")]
    assert main(["eval", str(folder), *options]) == 0
    scores = read_table(tmp_path / "o" / "scores.parquet").set_index("metric")
    model, loaded, found = jax.jit(logits), load_hf(folder), []
    for row in rows:
        asked, answer = f"Question: {row['query']}\nAnswer:", f" {row['choices'][row['gold']]}"
        given, ids = len(tokenizer.encode(asked).ids), tokenizer.encode(asked + answer).ids
        padded = jnp.array(ids + [0] * (48 - len(ids)))
        log_p = jax.nn.log_softmax(model(loaded, padded))
        found.append(sum(float(log_p[i - 1, ids[i]]) for i in range(given, len(ids))))
    assert scores.loc["log_probability", "value"] == pytest.approx(np.mean(found), abs=1e-4)


def test_fused_queries_keys_and_values_stand_by_head(tmp_path):
    """Row h * 36 + 12 * p + i of the tensor is channel i of head h, in queries (p=0), keys (1), values (2)."""
    model = model_of("gpt_neox")
    path = save_hf(model, tmp_path / "m") / "model.safetensors"
    fused = load_file(path)["gpt_neox.layers.1.attention.query_key_value.weight"]
    parts = (model.blocks.attention.query, model.blocks.attention.key, model.blocks.attention.value)
    for p, part in enumerate(parts):
        np.testing.assert_array_equal(fused[2 * 36 + 12 * p + 5], part[1][:, 2 * 12 + 5])


def test_masks_of_old_neox_files_pass_and_the_head_goes_by_both_names(tmp_path):
    model = model_of("gpt_neox")
    path = save_hf(model, tmp_path / "m") / "model.safetensors"
    weights = load_file(path)
    weights["gpt_neox.layers.0.attention.bias"] = np.ones((1, 1, 4, 4), np.float32)
    weights["gpt_neox.layers.0.attention.masked_bias"] = np.float32([-1e9])
    weights["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    weights["lm_head.weight"] = weights.pop("embed_out.weight")
    save_file(weights, path, {"format": "pt"})
    back = load_hf(tmp_path / "m")
    np.testing.assert_array_equal(back.head, model.head)


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("mistral", {"sliding_window": 4096}, ("local",)),  # the default of the family
        ("mistral", {"sliding_window": None}, ("global",)),
        ("gemma2", {}, ("local", "global")),
        ("gemma3_text", {"num_hidden_layers": 26}, ("local",) * 5 + ("global",)),
        ("gemma3_text", {"num_hidden_layers": 26, "sliding_window_pattern": 2}, ("local", "global")),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 8}, ("global",)),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 2}, ("global",) * 2 + ("local",)),
    ],
)  # fmt: skip
def test_layers_of_configurations_that_do_not_list_them(kind, config, says):
    bare = {
        "model_type": kind, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3,
        "intermediate_size": 96, "vocab_size": 50, "num_key_value_heads": 4,
    } | config  # fmt: skip
    assert spec_of_config(bare).arch.layers == says


def test_missing_fields_mean_what_they_mean_in_transformers():
    """As its configuration classes set them (5.24)."""
    bare = {
        "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 50,
    }  # fmt: skip
    read = {
        kind: spec_of_config(bare | {"model_type": kind, "num_attention_heads": 8})
        for kind in FAMILIES
    }
    assert {k: s.num_kv_heads for k, s in read.items() if s.num_kv_heads != 8} == {
        "gemma2": 4,
        "gemma3_text": 4,
    }
    assert {k for k, s in read.items() if s.tied} == {"gemma2", "gemma3_text"}
    assert {k for k, s in read.items() if s.norm_eps == 1e-5} == {"olmo2", "gpt_neox"}
    assert read["mistral"].arch.window == read["gemma2"].arch.window == 4096
    gemma2, gemma3, neox = (read[k].arch for k in ("gemma2", "gemma3_text", "gpt_neox"))
    assert (gemma2.attention_softcap, gemma2.logit_softcap, gemma2.activation) == (
        50,
        30,
        "gelu_tanh",
    )
    assert (gemma3.local_rope_theta, gemma3.logit_softcap, read["gemma3_text"].rope_theta) == (
        1e4,
        None,
        1e6,
    )
    assert (neox.rotary_fraction, neox.parallel, neox.activation, neox.attention_bias) == (
        0.25,
        True,
        "gelu",
        "all",
    )


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types do not fit"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "3 layers"),
        ("gemma2", {"sliding_window": None}, "sliding_window is not given"),
        ("gemma2", {"attn_logit_softcapping": "much"}, "attn_logit_softcapping='much'"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"hidden_activation": "relu"}, "hidden_activation 'relu'"),
        ("gemma3_text", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "yarn"),
        ("gpt_neox", {"rotary_pct": 0.1}, "rotary_fraction=0.1"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("olmo2", {"model_type": "olmo3"}, "model type 'olmo3'"),
        ("gemma3_text", {"model_type": "gemma3", "vision_config": {}}, "images and text"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_in_one_line(kind, change, message):
    with pytest.raises(UserError, match=message) as caught:
        spec_of_config(config_of_spec(SPECS[kind]) | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dataclasses.replace(SPECS["gpt_neox"], num_kv_heads=2), "cannot say all of that"),
        (dataclasses.replace(BASE, arch=Architecture(norm="layer")), "no family"),
        (dataclasses.replace(BASE, arch=Architecture(**MIXED)), "cannot say all of that"),
    ],
)
def test_what_no_file_can_say_is_not_written(spec, message):
    with pytest.raises(UserError, match=message):
        config_of_spec(spec)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"norm": "batch"}, "rms, layer"),
        ({"layers": ()}, "'global' or 'local'"),
        ({"window": 4}, "give both or neither"),
        ({"layers": ("local",)}, "give both or neither"),
        ({"window": 0, "layers": ("local",)}, "at least itself"),
        ({"local_rope_theta": 10.0}, "no layer is local"),
        ({"logit_softcap": 0.0}, "positive"),
        ({"rotary_fraction": 1.5}, "rotary_fraction"),
        ({"rotary_fraction": 0.1}, "even number"),
        ({"norm": "layer", "norm_plus_one": True}, "norm_plus_one"),
        ({"qk_norm_over": "all"}, "qk_norm=True"),
        ({"rope_linear": 2.0, "scaled": True}, "one rule at a time"),
    ],
)
def test_choices_that_make_no_sense_are_refused(arch, message):
    scaling = RopeScaling() if arch.pop("scaled", False) else None
    with pytest.raises(UserError, match=message):
        dataclasses.replace(BASE, rope_scaling=scaling, arch=Architecture(**arch))


def test_the_embedding_is_scaled_in_the_type_of_the_products():
    model = noisy(SPECS["gemma2"], ComputeSpec("bfloat16"))
    stream = model.embed(jnp.asarray([3]))
    root = np.asarray(jnp.asarray(48**0.5, jnp.bfloat16), np.float32)
    exact = jnp.asarray(
        model.embedding[3].astype(jnp.bfloat16).astype(jnp.float32) * root, jnp.bfloat16
    )
    np.testing.assert_array_equal(np.asarray(stream[0], np.float32), np.asarray(exact, np.float32))

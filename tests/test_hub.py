"""Folders in Hugging Face's layout without PyTorch: golden logits, round trips, and folders that must be refused."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from relscale.core import UserError
from relscale.model import hub
from relscale.model.decoder import init_model, logits
from relscale.model.hf_config import FAMILIES, config_of_spec, spec_of_config
from relscale.model.hub import load_hf, save_hf
from relscale.plan.spec import ComputeSpec, ModelSpec, RopeScaling
from relscale.text.tokenizer import train_tokenizer

GOLDEN = Path(__file__).parent / "golden"
SPEC = ModelSpec(hidden=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp=40, vocab=61)
LLAMA = dataclasses.replace(SPEC, qk_norm=False, tied=True, rope_scaling=None)


def same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def model():
    return init_model(SPEC, key=jax.random.key(0))


@pytest.fixture
def folder(model, tmp_path):
    return save_hf(model, tmp_path / "model")


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (content | changes).items() if v != "drop"}))


def reweigh(folder, change):
    """Rewrite the weights of a folder in one file."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("name", FAMILIES)
def test_golden_logits_of_transformers(name):
    """Written by tests/parity with `transformers` in float32; the bound is that of parity, for logits of order one."""
    with np.load(GOLDEN / "hub_logits.npz", allow_pickle=False) as golden:
        tokens, theirs = golden["tokens"], golden[name]
    assert theirs.std() > 0.5
    ours = np.asarray(jax.jit(logits)(load_hf(GOLDEN / f"hub_{name}"), tokens))
    assert np.abs(ours - theirs).max() < 2e-5


@pytest.mark.parametrize("spec", [SPEC, LLAMA], ids=["qwen3", "llama"])
@pytest.mark.parametrize("shard_bytes", [5e9, 8_000, 1])
def test_a_model_survives_the_round_trip(tmp_path, spec, shard_bytes):
    model = init_model(spec, key=jax.random.key(0))
    back = load_hf(save_hf(model, tmp_path / "m", shard_bytes=shard_bytes))
    assert (back.spec, back.compute) == (spec, ComputeSpec())
    same_bits(back, model)
    files = list((tmp_path / "m").glob("*.safetensors"))
    tensors = 2 + spec.num_layers * (11 if spec.qk_norm else 9) + (not spec.tied)
    assert len(files) == 1 if shard_bytes == 5e9 else len(files) > 2
    if shard_bytes == 1:
        assert len(files) == tensors


def test_bfloat16_files_and_models(tmp_path, model):
    """Rounded once to nearest even, in the file or at reading, with the same result."""
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    save_hf(model, tmp_path / "half", dtype="bfloat16")
    weights = load_file(tmp_path / "half/model.safetensors")
    assert {w.dtype for w in weights.values()} == {np.dtype(ml_dtypes.bfloat16)}
    same_bits(load_hf(tmp_path / "half", dtype="bfloat16"), rounded)
    same_bits(load_hf(tmp_path / "half"), jax.tree.map(lambda x: x.astype(jnp.float32), rounded))
    save_hf(model, tmp_path / "full")
    half = load_hf(tmp_path / "full", dtype="bfloat16")
    same_bits(half, rounded)
    assert half.compute.dtype == "bfloat16"
    assert jax.eval_shape(half, jnp.zeros((1, 4), int)).dtype == jnp.bfloat16
    save_hf(half, tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_matrices_stand_as_out_by_in(tmp_path, model):
    """In the file row i of q_proj makes query channel i; the embedding is not turned."""
    weights = load_file(save_hf(model, tmp_path / "m") / "model.safetensors")
    query = weights["model.layers.1.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(query[5], model.blocks.attention.query[1][:, 5])
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"], model.embedding)


positive = st.integers(1, 64)
scalings = st.none() | st.builds(
    RopeScaling,
    factor=st.floats(1, 64),
    low=st.floats(0.1, 2),
    high=st.floats(2.5, 8),
    original_length=st.integers(1, 10**6),
)


@settings(max_examples=100, deadline=None)
@given(positive, positive, positive, positive, scalings, st.booleans(), st.floats(1e-9, 1e-2))
def test_a_shape_survives_its_config(heads, group, half_width, layers, scaling, tied, eps):
    for qk_norm in (True, False):
        spec = ModelSpec(
            hidden=8 * heads * group,
            num_layers=layers,
            num_heads=heads * group,
            num_kv_heads=heads,
            head_dim=2 * half_width,
            mlp=3,
            vocab=7,
            qk_norm=qk_norm,
            tied=tied,
            norm_eps=eps,
            rope_theta=1e6,
            rope_scaling=scaling,
        )
        assert spec_of_config(json.loads(json.dumps(config_of_spec(spec)))) == spec


def test_both_forms_of_the_rotary_fields():
    config = config_of_spec(SPEC)
    old = config.pop("rope_scaling")
    theta = config.pop("rope_theta")
    assert spec_of_config(config | {"rope_parameters": old | {"rope_theta": theta}}) == SPEC
    legacy = {("type" if k == "rope_type" else k): v for k, v in old.items()}
    assert spec_of_config(config | {"rope_scaling": legacy, "rope_theta": theta}) == SPEC
    plain = {"rope_type": "default", "rope_theta": 1e6}
    read = spec_of_config(config | {"rope_parameters": plain})
    assert (read.rope_theta, read.rope_scaling) == (1e6, None)
    assert spec_of_config(config).rope_theta == 10_000  # the default of transformers


def test_missing_optional_fields_mean_what_they_mean_in_transformers():
    bare = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 96,
        "vocab_size": 50,
        "head_dim": None,
    }
    read = spec_of_config(bare)
    assert (read.head_dim, read.num_kv_heads, read.norm_eps, read.tied) == (16, 4, 1e-6, False)
    assert spec_of_config(bare | {"model_type": "qwen3"}).head_dim == 128


LONE_SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model type 'gpt2'"),
        ({"model_type": "drop"}, "model type None"),
        ({"model_type": "qwen3_moe"}, "mixture of experts"),
        ({"model_type": "mixtral"}, "mixture of experts"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "Qwen3ForSequenceClassification"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"hidden_act": "relu"}, "'relu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4}}, "'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"rope_scaling": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        ({"rope_parameters": {"rope_type": "default"}}, "disagree"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_size": "drop"}, "'hidden_size' is missing"),
        ({"hidden_size": 24.0}, "hidden_size=24.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"num_key_value_heads": 3}, "num_kv_heads=3"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(folder, change, message):
    edit(folder / "config.json", **change)
    with pytest.raises(UserError, match=message):
        load_hf(folder)


def test_a_sliding_window_that_no_layer_uses_is_no_sliding_window():
    config = config_of_spec(SPEC)
    assert spec_of_config(config | LONE_SLIDING | {"max_window_layers": 2}) == SPEC
    assert spec_of_config(config | LONE_SLIDING | {"sliding_window": None}) == SPEC


FIRST_UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(FIRST_UP), "up_proj.weight' is missing"),
        (lambda w: w.pop("lm_head.weight"), "lm_head.weight' is missing"),
        (lambda w: w.update({"model.layers.2.mlp.up_proj.weight": w[FIRST_UP]}), "no place"),
        (lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": np.ones(32)}), "no place"),
        (lambda w: w.update({FIRST_UP: w[FIRST_UP].T.copy()}), r"has shape \(24, 40\).*\(40, 24\)"),
        (lambda w: w.update({FIRST_UP: w[FIRST_UP].astype(np.int8)}), "type I8"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, message):
    reweigh(folder, change)
    with pytest.raises(UserError, match=message):
        load_hf(folder)


def test_harmless_repeats_pass_and_others_do_not(tmp_path):
    folder = save_hf(init_model(LLAMA, key=jax.random.key(0)), tmp_path / "m")
    before = load_hf(folder)

    def repeat(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)

    reweigh(folder, repeat)
    same_bits(load_hf(folder), before)
    reweigh(folder, lambda w: w.update({"lm_head.weight": w["lm_head.weight"] + 1}))
    with pytest.raises(UserError, match="lm_head differs"):
        load_hf(folder)


@pytest.mark.parametrize(
    "file", ["../m/model.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", ".safetensors", 3]
)
def test_an_index_may_only_name_files_of_its_folder(tmp_path, model, file):
    folder = save_hf(model, tmp_path / "m", shard_bytes=8_000)
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=places | {"lm_head.weight": file})
    with pytest.raises(UserError, match="not a plain name"):
        load_hf(folder)


def test_an_index_and_its_files_must_agree(tmp_path, model):
    folder = save_hf(model, tmp_path / "m", shard_bytes=8_000)
    index = folder / "model.safetensors.index.json"
    whole = json.loads(index.read_text())["weight_map"]
    other = next(f for f in whole.values() if f != whole["lm_head.weight"])
    for places in (
        whole | {"lm_head.weight": other},
        {k: v for k, v in whole.items() if k != "lm_head.weight"},
    ):
        edit(index, weight_map=places)
        with pytest.raises(UserError, match="in the index or in the file"):
            load_hf(folder)
    edit(index, weight_map=whole | {"lm_head.weight": "gone.safetensors"})
    with pytest.raises(UserError, match=r"gone\.safetensors"):
        load_hf(folder)
    for content in ("{", "[]", '{"weight_map": {}}'):
        index.write_text(content)
        with pytest.raises(UserError, match="fetch it again"):
            load_hf(folder)


def test_damaged_folders_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_hf(tmp_path / "none")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-8], whole[:20], b"", b"\xff" * 64):
        weights.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors"):
            load_hf(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load_hf(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=r"pytorch_model.bin: pickled weights are never opened"):
        load_hf(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: not there"):
        load_hf(folder)


def test_a_folder_appears_whole_or_not_at_all(tmp_path, model, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(hub, "_write_weights", fail)
        save_hf(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "m").mkdir()
    with pytest.raises(UserError, match="nothing is overwritten"):
        save_hf(model, tmp_path / "m")


def test_a_tokenizer_goes_along_if_it_fits(tmp_path, model):
    tokenizer = train_tokenizer(["some text to count pairs in"] * 3, 260)
    with pytest.raises(UserError, match="tokenizer of 260 tokens: the model has 61"):
        save_hf(model, tmp_path / "m", tokenizer=tokenizer)
    wide = init_model(dataclasses.replace(SPEC, vocab=260), key=jax.random.key(0))
    first = save_hf(wide, tmp_path / "m", tokenizer=tokenizer)
    again = save_hf(load_hf(first), tmp_path / "n", tokenizer=first / "tokenizer.json")
    for file in ("tokenizer.json", "config.json", "tokenizer_config.json"):
        assert (first / file).read_bytes() == (again / file).read_bytes()
    assert json.loads((first / "config.json").read_text())["eos_token_id"] == 0


def test_only_a_name_with_hf_goes_to_the_hub(folder, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="the extra `hub`")
    asked = []

    def fetch(name, **options):
        asked.append((name, options["revision"], tuple(options["allow_patterns"])))
        if name == "no/such":
            raise OSError("404 Client Error\nmore")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(UserError, match="hf:owner/name"):
        load_hf("owner/name")
    assert not asked
    assert load_hf("hf:owner/name", revision="abc").spec == SPEC
    with pytest.raises(UserError, match="hf:no/such: 404 Client Error; check"):
        load_hf("hf:no/such")
    assert asked[0][:2] == ("owner/name", "abc")
    assert not [p for p in asked[0][2] if ".bin" in p or ".py" in p or p == "*"]


def test_llama_files_need_a_width_that_heads_divide():
    """transformers refuses such a Llama config, so it must not be written."""
    with pytest.raises(UserError, match="multiple of num_heads=3"):
        config_of_spec(dataclasses.replace(LLAMA, hidden=25, num_heads=3, num_kv_heads=3))


def test_one_tensor_at_a_time(folder, monkeypatch):
    """Every tensor is read once, in the order of the leaves; the files are closed in between."""
    read, plain = [], hub._read
    monkeypatch.setattr(hub, "_read", lambda found, name: read.append(name) or plain(found, name))
    load_hf(folder)
    assert len(read) == len(set(read)) == 25
    if Path("/proc/self/maps").exists():
        assert str(folder) not in Path("/proc/self/maps").read_text()
    shutil.rmtree(folder)
    assert not os.path.exists(folder)

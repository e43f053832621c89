"""Folders mean the same to `transformers` as to this library, both ways.

Bound: 2e-5 on logits of order one. Two float32 programs that order their sums differently stay below it over
three layers of width 64; a wrong pairing, transposition, frequency or epsilon misses it by orders of magnitude.
"""

import itertools
import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with transformers needs PyTorch: make parity")
transformers = pytest.importorskip("transformers", reason="make parity brings transformers")

from models import CONFIGS, FORMS, TOKENS, random_model, reload, torch_logits  # noqa: E402

from relscale.model.decoder import init_model, logits  # noqa: E402
from relscale.model.hf_config import spec_of_config  # noqa: E402
from relscale.model.hub import load_hf, save_hf  # noqa: E402
from relscale.plan.flops import param_counts  # noqa: E402
from relscale.plan.spec import ModelSpec, RopeScaling  # noqa: E402
from relscale.text.tokenizer import END_OF_TEXT, train_tokenizer  # noqa: E402

BOUND = 2e-5
CASES = list(itertools.product(("qwen3", "llama"), (2, 4), (True, False), (True, False)))
IDS = [
    f"{family}-{'gqa' if kv == 2 else 'mha'}-{'llama3' if scaled else 'plain'}-{'tied' if tied else 'untied'}"
    for family, kv, scaled, tied in CASES
]


def our_logits(model):
    return np.asarray(jax.jit(logits)(model, TOKENS.numpy()))


def assert_close(ours, theirs):
    off, spread = np.abs(ours - theirs).max(), theirs.std()
    print(f"largest difference {off:.2g}, spread of logits {spread:.2f}")
    assert spread > 0.4  # the bound would mean nothing on logits near zero
    assert off < BOUND


@pytest.mark.parametrize(("family", "kv_heads", "scaled", "tied"), CASES, ids=IDS)
def test_their_folder_loads_here(tmp_path, family, kv_heads, scaled, tied):
    theirs = random_model(family, kv_heads=kv_heads, scaled=scaled, tied=tied)
    theirs.save_pretrained(tmp_path)
    ours = load_hf(tmp_path)
    assert ours.spec.qk_norm == (family == "qwen3") and ours.spec.tied == tied
    assert (ours.spec.rope_scaling is not None) == scaled
    assert_close(our_logits(ours), torch_logits(theirs))


@pytest.mark.parametrize(("family", "kv_heads", "scaled", "tied"), CASES, ids=IDS)
def test_our_folder_loads_there(tmp_path, family, kv_heads, scaled, tied):
    spec = ModelSpec(
        64,
        3,
        4,
        kv_heads,
        24,
        96,
        97,
        qk_norm=family == "qwen3",
        tied=tied,
        rope_theta=5000.0,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32) if scaled else None,
    )
    leaves, tree = jax.tree.flatten(init_model(spec, key=jax.random.key(0)))
    keys = jax.random.split(jax.random.key(7), len(leaves))
    model = tree.unflatten(
        [x + 0.08 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )
    save_hf(model, tmp_path / "one")
    save_hf(model, tmp_path / "several", shard_bytes=100_000)
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    for folder in (tmp_path / "one", tmp_path / "several"):
        assert_close(our_logits(model), torch_logits(reload(folder)))


@pytest.mark.parametrize("form", FORMS)
def test_other_families_and_forms(tmp_path, form):
    """Their folder here, and ours there; FORMS says what each of them has that a small Llama has not."""
    family, config = FORMS[form]
    theirs = random_model(family, scaled="rope_parameters" not in config, **config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, right = load_hf(tmp_path / "theirs"), torch_logits(theirs)
    assert_close(our_logits(ours), right)
    save_hf(ours, tmp_path / "ours")
    back = reload(tmp_path / "ours")
    # A Mistral without its window is a Llama, and is written as one.
    same = type(back) is type(theirs) or (form, type(back).__name__) == ("mistral, no window", "LlamaForCausalLM")  # fmt: skip
    assert same, type(back)
    assert_close(right, torch_logits(back))


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_sharded_and_bfloat16_files(tmp_path, family):
    """Rounding to bfloat16 is done once, in the file: both sides then compute in float32."""
    theirs = random_model(family).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    ours = load_hf(tmp_path / "theirs")
    assert_close(our_logits(ours), torch_logits(reload(tmp_path / "theirs")))

    save_hf(ours, tmp_path / "ours", dtype="bfloat16", shard_bytes=50_000)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
    assert back.dtype == torch.bfloat16
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_float16_files(tmp_path, family):
    random_model(family).to(torch.float16).save_pretrained(tmp_path)
    assert_close(our_logits(load_hf(tmp_path)), torch_logits(reload(tmp_path)))


@pytest.mark.parametrize("scaled", [True, False])
def test_the_fields_of_version_4(tmp_path, scaled):
    """Both sides read `rope_theta` beside `rope_scaling`, and a missing head_dim, alike."""
    random_model("llama", scaled=scaled).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    del config["head_dim"]
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if scaled else None
    path.write_text(json.dumps(config))
    assert_close(our_logits(load_hf(tmp_path)), torch_logits(reload(tmp_path)))


def test_the_fields_of_version_4_of_neox(tmp_path):
    """As Pythia's configurations have them: `rotary_pct`, `rotary_emb_base`, and nothing of biases or residuals."""
    random_model("gpt_neox", scaled=False).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config |= {"rotary_pct": rope["partial_rotary_factor"], "rotary_emb_base": rope["rope_theta"]}
    del config["attention_bias"]
    path.write_text(json.dumps(config))
    assert_close(our_logits(load_hf(tmp_path)), torch_logits(reload(tmp_path)))


def test_the_fields_of_version_4_of_gemma3(tmp_path):
    """As Gemma 3's configurations have them: two bases, a pattern, no list of layers, and nothing on the tied head."""
    small = {"num_hidden_layers": 6, "layer_types": None, "tie_word_embeddings": True}
    random_model("gemma3_text", scaled=False, **small).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    far, near = (rope[f"{kind}_attention"]["rope_theta"] for kind in ("full", "sliding"))
    del config["layer_types"], config["tie_word_embeddings"]
    config |= {"rope_theta": far, "rope_local_base_freq": near, "sliding_window_pattern": 6}
    path.write_text(json.dumps(config))
    assert_close(our_logits(load_hf(tmp_path)), torch_logits(reload(tmp_path)))


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2", "gemma3_text", "olmo2"])
def test_models_in_bfloat16(tmp_path, family):
    """Both sides compute in bfloat16: 8 bits of mantissa over three layers, a few hundredths of the logits' spread."""
    theirs = random_model(family).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    ours, right = our_logits(load_hf(tmp_path, dtype="bfloat16")), torch_logits(theirs)
    assert np.sqrt(np.mean((ours - right) ** 2)) < 0.03 * right.std()


PUBLISHED = {
    "EleutherAI/pythia-410m": ("gpt_neox", (1024, 24, 16, 16, 64, 4096, 50_304), {"tie_word_embeddings": False}),
    "Qwen/Qwen2.5-0.5B": ("qwen2", (896, 24, 14, 2, 64, 4864, 151_936), {"tie_word_embeddings": True}),
    "mistralai/Mistral-7B-v0.1": ("mistral", (4096, 32, 32, 8, 128, 14_336, 32_000), {"tie_word_embeddings": False}),
    "allenai/OLMo-2-1124-7B": ("olmo2", (4096, 32, 32, 32, 128, 11_008, 100_352), {"tie_word_embeddings": False}),
    "google/gemma-2-2b": ("gemma2", (2304, 26, 8, 4, 256, 9216, 256_000), {"tie_word_embeddings": True}),
    "google/gemma-3-1b-pt": ("gemma3_text", (1152, 26, 4, 1, 256, 6912, 262_144), {"tie_word_embeddings": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_as_many_parameters_there_and_here(name):
    """Shapes alone, on torch's meta device; the closed formula of `param_counts` is what the memory of a load is planned by."""
    family, shape, config = PUBLISHED[name]
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size")  # fmt: skip
    told = dict(zip(names, shape, strict=True)) | config
    if family == "gpt_neox":
        del told["num_key_value_heads"], told["head_dim"]
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(CONFIGS[family](**told))
    spec = spec_of_config(told | {"model_type": family})
    assert param_counts(spec)["total"] == sum(p.numel() for p in theirs.parameters())


def test_the_tokenizer_goes_along(tmp_path):
    texts = ["one two three two one", "élan vital, naïve café"] * 20
    tokenizer = train_tokenizer(texts, 280)
    spec = ModelSpec(32, 1, 2, 2, 16, 64, 280)
    save_hf(init_model(spec, key=jax.random.key(0)), tmp_path / "m", tokenizer=tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    text = "three naïve cafés, one\n"
    assert theirs.encode(text) == tokenizer.encode(text).ids
    assert theirs.decode(theirs.encode(text)) == text
    assert theirs.eos_token == END_OF_TEXT
    assert reload(tmp_path / "m").config.eos_token_id == tokenizer.token_to_id(END_OF_TEXT)

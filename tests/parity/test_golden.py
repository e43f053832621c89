"""A tiny folder of each family, written by `transformers`, with its logits, for the tests that run without PyTorch.

`GOLDEN=write make parity` writes them anew; without it they must still be what `transformers` makes of them.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity with transformers needs PyTorch: make parity")
pytest.importorskip("transformers", reason="make parity brings transformers")

from models import PARTS, TOKENS, random_model, reload, torch_logits

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
SHORT = TOKENS[:, ::2]
OTHERS = ("qwen2", "mistral", "olmo2", "gemma2", "gemma3_text", "gpt_neox")


def write():
    models = {
        "qwen3": random_model("qwen3", tied=True, **SMALL).half(),
        "llama": random_model("llama", scaled=True, seed=1, **SMALL).bfloat16(),
    }
    for seed, family in enumerate(OTHERS, start=2):
        few = {"layer_types": PARTS[family]["layer_types"][-2:]} if "gemma" in family else {}
        tied = "gemma" in family
        models[family] = random_model(
            family, scaled=False, tied=tied, seed=seed, **SMALL, **few
        ).half()
    for name, model in models.items():
        shutil.rmtree(GOLDEN / f"hub_{name}", ignore_errors=True)
        sizes = {"max_shard_size": "30KB"} if name == "llama" else {}
        model.save_pretrained(GOLDEN / f"hub_{name}", **sizes)
        (GOLDEN / f"hub_{name}/generation_config.json").unlink(missing_ok=True)
        for file in (GOLDEN / f"hub_{name}").iterdir():
            file.chmod(0o644)
    found = {name: torch_logits(reload(GOLDEN / f"hub_{name}"), SHORT) for name in models}
    np.savez_compressed(GOLDEN / "hub_logits.npz", tokens=SHORT.numpy().astype(np.int32), **found)


def test_golden_logits_are_those_of_transformers():
    """The bound is a tenth of the parity bound: versions of PyTorch may order their sums differently."""
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        write()
    with np.load(GOLDEN / "hub_logits.npz", allow_pickle=False) as golden:
        for name in ("qwen3", "llama", *OTHERS):
            fresh = torch_logits(reload(GOLDEN / f"hub_{name}"), SHORT)
            assert np.abs(fresh - golden[name]).max() < 2e-6 * max(1, np.abs(fresh).max())

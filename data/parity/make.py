"""Logits of random models of every family, here and in `transformers`: data/parity/logits.csv.

python data/parity/make.py    # after: pip install torch==2.13.0 'relscale[parity]'; forms that the table has are kept
"""

import csv
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
import transformers

import relscale as rs
from relscale.eval.kv_cache import chain, new_prefix, read_rows
from relscale.model.decoder import head_logits, logits
from relscale.model.hub import load_hf, save_hf

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "parity"))
from models import FORMS, TOKENS, random_model, reload, torch_logits  # noqa: E402

PLAIN = {"qwen3": ("qwen3", {}), "llama": ("llama", {})}


def cached_logits(model, tokens: np.ndarray) -> np.ndarray:
    """Logits of one text, read in two pieces: the second behind the keys and values of the first."""
    half, prefix, found = len(tokens) // 2, new_prefix(model, len(tokens)), []
    for at in (0, half):
        piece = tokens[at : at + half]
        hidden, prefix = read_rows(model, prefix, chain(piece, at), keep=True)
        found.append(head_logits(model, hidden[0]))
    return np.concatenate([np.asarray(f) for f in found])


def row(form: str, family: str, config: dict) -> dict:
    theirs = random_model(family, scaled="rope_parameters" not in config, **config)
    right = torch_logits(theirs)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(f"{folder}/theirs")
        ours = load_hf(f"{folder}/theirs")
        save_hf(ours, f"{folder}/ours")
        back = torch_logits(reload(f"{folder}/ours"))
    here = np.asarray(jax.jit(logits)(ours, TOKENS.numpy()))
    cached = cached_logits(ours, TOKENS[0].numpy())
    return {
        "form": form,
        "family": family,
        "model_class": type(theirs).__name__,
        "num_params": sum(p.numel() for p in theirs.parameters()),
        "logits": right.size,
        "std": f"{right.std():.3f}",
        "read_here": f"{np.abs(here - right).max():.2e}",
        "with_prefix": f"{np.abs(cached - right[0]).max():.2e}",
        "read_there": f"{np.abs(back - right).max():.2e}",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "relscale": rs.__version__,
    }


def main() -> None:
    rows, table = [], Path(__file__).parent / "logits.csv"
    if table.exists():
        with open(table, newline="") as file:
            rows = list(csv.DictReader(file))
    for form, told in (PLAIN | FORMS).items():
        if form in {done["form"] for done in rows}:
            continue
        rows.append(row(form, *told))
        print(
            form,
            *(rows[-1][name] for name in ("read_here", "with_prefix", "read_there")),
            flush=True,
        )
        with open(table, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

"""Make runs.csv from a checkout of marin-community/marin: python data/wen2025/make.py CHECKOUT"""

import hashlib
import json
import sys
from pathlib import Path

import pandas as pd

from relscale.core import UserError
from relscale.tables import validate_runs, write_table

ANALYSIS = "experiments/optimizer_sweep/Analysis"
PHASES = ("PhaseII", "PhaseIII_1B", "PhaseIII_16x")
WIDTH = {"130m": 512, "300m": 768, "520m": 1024, "1.2b": 1536}
OPTIMIZERS = {  # in the keys of the files: here
    "adamw": "adamw", "nadamw": "nadamw", "cautious": "cautious", "mars": "mars", "lion": "lion", "mini": "adam-mini",
    "muon": "muon", "scion": "scion", "kron": "kron", "soap": "soap", "soape": "soap",
}  # fmt: skip
LAYERS, SEQ_LEN, VOCABULARY = 32, 4096, 128_256


def read_run(optimizer: str, size: str, multiple: int, record: dict) -> dict:
    """The row of one cell: an optimizer, a size and a multiple of 20 tokens a parameter."""
    hidden, batch = WIDTH[size], int(record["best_config"]["train_batch_size"])
    blocks = LAYERS * 16 * hidden**2  # attention 4 d^2, MLP 3 x 4 d^2
    num_tokens = 20 * blocks * multiple
    forward = num_tokens * (2.0 * (blocks + VOCABULARY * hidden) + 4.0 * LAYERS * hidden * SEQ_LEN)
    return {
        "run_id": f"{optimizer}-{size}-{multiple}", "suite": "wen2025", "corpus": "mixture of Wen et al.", "status": "finished",
        "budget_flops": 3 * forward, "forward_flops": forward, "train_flops": 3 * forward,
        "num_params": blocks + 2 * VOCABULARY * hidden + (2 * LAYERS + 1) * hidden, "num_tokens": num_tokens,
        "hidden": hidden, "num_layers": LAYERS, "batch_size": batch, "num_steps": num_tokens // (batch * SEQ_LEN),
        "seq_len": SEQ_LEN, "optimizer": optimizer, "size": size, "token_multiplier": multiple,
        "num_params_blocks": blocks, "c4_en_loss": record["min_loss"],
    }  # fmt: skip


def read_checkout(folder: Path) -> pd.DataFrame:
    """All cells of a checkout, by optimizer, size and length; the files name a cell by a hash."""
    paths = [Path(folder) / ANALYSIS / phase / "wandb_cache.json" for phase in PHASES]
    if lost := [p for p in paths if not p.is_file()]:
        raise UserError(f"{lost[0]}: no such file: give a checkout of marin-community/marin")
    found = {}
    for path in paths:
        found |= json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for theirs, ours in OPTIMIZERS.items():
        for size, hidden in WIDTH.items():
            for multiple in (1, 2, 4, 8, 16):
                billions = 20 * LAYERS * 16 * hidden**2 * multiple // 10**9
                key = hashlib.md5(f"{theirs}_{size}_{billions}B_{multiple}".encode()).hexdigest()
                if key in found:
                    rows.append(read_run(ours, size, multiple, found.pop(key)))
    if found:
        raise UserError(
            f"{len(found)} cells of unknown name, such as {next(iter(found))}: add what was searched"
        )
    return validate_runs(
        pd.DataFrame(rows).sort_values(
            ["optimizer", "num_params", "token_multiplier"], ignore_index=True
        )
    )


if __name__ == "__main__":
    write_table(read_checkout(Path(sys.argv[1])), Path(__file__).with_name("runs.csv"))

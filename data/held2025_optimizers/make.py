"""Make runs.csv from a checkout of marin-community/marin: python data/held2025_optimizers/make.py CHECKOUT"""

import json
import sys
from pathlib import Path

import pandas as pd

from relscale.core import UserError
from relscale.tables import validate_runs, write_table

RUNS = "experiments/speedrun/{optimizer}_llama_scaling/{size}/speedrun_results.json"
OPTIMIZERS = ("adamw", "adamc", "cautious", "c-adamc", "muon")
SIZES = {"130m": "130m", "300m": "300m", "520m": "520m", "1_2b": "1.2b"}  # in the paths: here


def read_run(optimizer: str, size: str, info: dict) -> dict:
    """The row of one run, from its record in the file."""
    model, train = info["model_config"], info["train_config"]
    rule = train["optimizer_config"]
    return {
        "run_id": f"{optimizer}-{size}", "suite": "held2025_optimizers", "corpus": "fineweb-edu", "status": "finished",
        "budget_flops": info["model_flops"], "forward_flops": info["model_flops"] / 3, "train_flops": info["model_flops"],
        "num_params": info["model_size"], "num_tokens": info["total_tokens"], "hidden": model["hidden_dim"],
        "num_layers": model["num_layers"], "batch_size": train["train_batch_size"], "num_steps": train["num_train_steps"],
        "seq_len": model["seq_len"], "learning_rate": train["learning_rate"], "optimizer": optimizer, "size": size,
        "beta1": rule["beta1"], "epsilon": rule["epsilon"], "weight_decay": rule["weight_decay"], "warmup_steps": rule["warmup"],
        "clip_norm": rule["max_grad_norm"], "lr_schedule": rule["lr_schedule"], "finished": info["run_completion_timestamp"],
        "c4_en_bpb": info["eval/paloma/c4_en/bpb"],
    }  # fmt: skip


def read_checkout(folder: Path) -> pd.DataFrame:
    """The 20 runs of a checkout: five optimizers at four sizes."""
    rows = []
    for optimizer in OPTIMIZERS:
        for theirs, size in SIZES.items():
            path = Path(folder) / RUNS.format(optimizer=optimizer, size=theirs)
            if not path.is_file():
                raise UserError(f"{path}: no such file: give a checkout of marin-community/marin")
            (run,) = json.loads(path.read_text(encoding="utf-8"))["runs"]
            rows.append(read_run(optimizer, size, run["run_info"]))
    return validate_runs(pd.DataFrame(rows))


if __name__ == "__main__":
    write_table(read_checkout(Path(sys.argv[1])), Path(__file__).with_name("runs.csv"))

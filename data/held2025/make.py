"""Make runs.csv from the W&B export: python data/held2025/make.py path/to/isoflop_runs.csv"""

import sys
from pathlib import Path

import pandas as pd

from relscale.tables import validate_runs, write_table


def main(source: str) -> None:
    raw = pd.read_csv(source)
    raw = raw[
        raw.budget_forward_flops >= 1e18
    ]  # three extra Nemotron runs at 6e17 are not in the paper
    train_flops = raw.train_gflops * 1e9
    runs = pd.DataFrame(
        {
            "run_id": raw.run,
            "suite": "held2025",
            "corpus": raw.corpus,
            "status": "finished",
            "budget_flops": raw.budget_forward_flops,
            "forward_flops": train_flops / 3,
            "train_flops": train_flops,
            "num_params": raw.params,
            "num_tokens": raw.tokens,
            "hidden": raw.hidden,
            "num_layers": raw.layers,
            "batch_size": raw.batch_size,
            "num_steps": raw.steps,
            "seq_len": 4096,
            "learning_rate": raw.learning_rate,
            "paloma_macro_loss": raw.paloma_macro_loss_nats,
        }
    ).sort_values(["corpus", "budget_flops", "hidden"])
    assert runs.corpus.value_counts().eq(85).all() and len(runs) == 255
    write_table(validate_runs(runs), Path(__file__).with_name("runs.csv"))


if __name__ == "__main__":
    main(sys.argv[1])

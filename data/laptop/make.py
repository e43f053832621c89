"""Carry the tables of a study into `data/laptop`: python data/laptop/make.py STUDY_FOLDER.

Run it on the machine of the study, when that is quiet: it also measures the matrix-multiply rate.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from relscale.plan.chips import gemm_flops_per_second
from relscale.sweep.store import connect, read_record
from relscale.sweep.workers import available_cores
from relscale.tables import write_table

study, here = Path(sys.argv[1]), Path(__file__).parent
for name in ("runs", "scores"):
    write_table(pd.read_parquet(study / f"{name}.parquet"), here / f"{name}.csv")
card = json.loads((study / "corpora.json").read_text())
text = pd.DataFrame(card["corpora"]).drop(columns=["versions"]).assign(tokenizer=card["tokenizer"])
write_table(text, here / "text.csv")
runs = pd.read_csv(here / "runs.csv")
timing = {
    "train_flops": runs["train_flops"].sum(),
    "wall_s": sum(
        read_record(connect(study), f"runs/{name}/timing.json")["wall_s"] for name in runs["run_id"]
    ),
    "num_cores": len(available_cores()),
    "gemm_flops_per_second": gemm_flops_per_second(repeats=50),
}
write_table(pd.DataFrame([timing]), here / "timing.csv")

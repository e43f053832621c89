"""Carry the tables of one piece of the mini-suite into this folder: python data/mini/make.py STORE PIECE [CORE_SECONDS].

Call it after each `relscale sweep` of the piece: rows of the same runs and tasks are replaced, all others stay.
CORE_SECONDS is what the sweep printed as its core time; without it, only what the runs spent is known.
"""

import json
import math
import sys
from pathlib import Path

import pandas as pd
from plan import DOMAINS, PLANS

from relscale.sweep.store import connect, read_record
from relscale.tables import read_table, write_table

KEYS = ["run_id", "task", "group", "metric"]
METRICS = (
    "bits_per_byte",
    "accuracy",
    "choice_probability",
    "choice_log_probability",
    "log_probability",
)  # of 11


def joined(path: Path, rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The rows of a table that is there, without those of the same keys, and then these."""
    if path.exists():
        old = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        here = pd.MultiIndex.from_frame(rows[keys].astype(str))
        rows = pd.concat(
            [old[~pd.MultiIndex.from_frame(old[keys].astype(str)).isin(here)], rows],
            ignore_index=True,
        )
    return rows


def main(store: Path, piece: str, core_s: float = math.nan) -> None:
    here, plan = Path(__file__).parent, PLANS[piece]()
    runs = read_table(store / "runs.parquet").set_index("run_id")
    there = [
        run.run_id for run in plan.runs if run.run_id in runs.index
    ]  # a part may be done first
    runs = runs.loc[there].reset_index().assign(suite=piece)
    weights = {run.run_id: dict(run.mixture) for run in plan.runs}
    for domain in DOMAINS:
        runs[f"weight_{domain}"] = [weights[i].get(domain, 0.0) for i in runs["run_id"]]
    scores = read_table(store / "scores.parquet")
    scores = scores[scores["run_id"].isin(runs["run_id"]) & scores["metric"].isin(METRICS)]
    scores = scores[~scores["task"].str.endswith(":subjects")]  # ten questions each
    spent = {"piece": piece, "runs": len(runs), "train_flops": runs["train_flops"].sum()}
    spent["sweep_core_s"] = core_s
    for run_id in runs["run_id"]:
        record = read_record(connect(store), f"runs/{run_id}/timing.json") or {}
        for name, seconds in record.items():
            if name.endswith("_s"):
                spent[f"{name[:-2]}_core_s"] = round(
                    spent.get(f"{name[:-2]}_core_s", 0.0) + seconds, 1
                )
    if piece == "tune":
        both = runs.merge(
            scores.groupby("run_id")["value"].mean().rename("bits_per_byte"), on="run_id"
        )
        rate = both["corpus"].str.extract(r"-x([\d.]+)$")[0].astype(float)
        columns = [
            "optimizer",
            "budget_flops",
            "hidden",
            "learning_rate",
            "train_loss_nats",
            "bits_per_byte",
        ]
        write_table(both[columns].assign(rate=rate), here / "tune.csv")
    else:
        write_table(joined(here / "runs.csv", runs, ["run_id"]), here / "runs.csv")
        write_table(joined(here / "scores.parquet", scores, KEYS), here / "scores.parquet")
        card = json.loads((store / "corpora.json").read_text())
        text = pd.DataFrame(card["corpora"]).drop(columns=["versions"])
        tokens = [card["stores"][f"{domain}-train"]["num_tokens"] for domain in text["domain"]]
        text = text.assign(train_tokens=tokens, tokenizer=card["tokenizer"])
        write_table(text, here / "text.csv")
    write_table(joined(here / "spent.csv", pd.DataFrame([spent]), ["piece"]), here / "spent.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:]))

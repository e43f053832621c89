"""Forecast models of Gemstones by two stages that were fitted to other models: python data/other_models/make.py"""

from pathlib import Path

import numpy as np
import pandas as pd

import relscale as rs

DEALS, LARGE, BELOW, ABOVE = (
    30,
    4e8,
    5e20,
    1e21,
)  # deals; parameters; FLOPs of stage one and of forecasts
TASKS = {  # task: its parts are groups, or all items together
    "arc": ("easy", "challenge"), "hellaswag": ("all",), "openbookqa": ("all",), "piqa": ("all",), "winogrande": ("all",),
    "csqa": ("all",), "socialiqa": ("all",), "mmlu": ("all",),
}  # fmt: skip


def checkpoints(runs: pd.DataFrame, scores: pd.DataFrame, task: str, group: str) -> pd.DataFrame:
    """One row a checkpoint: loss of the right answers, every item counted alike, loss on text, and accuracy."""
    own = scores[(scores["task"] == task) & ((scores["group"] == group) | (task == "mmlu"))]
    losses = own[own["metric"] == "loss"].assign(lost=lambda d: d["value"] * d["n"].astype(float))
    sums = losses.groupby("run_id")[["lost", "n"]].sum().loc[runs["run_id"]]
    right = own[own["metric"] == "accuracy_per_char"].set_index("run_id")["value"]
    text = scores[(scores["task"] == "text") & (scores["group"] == "dclm")].set_index("run_id")["value"]  # fmt: skip
    return runs.assign(
        loss=(sums["lost"] / sums["n"].astype(float)).to_numpy(),
        accuracy=right.loc[runs["run_id"]].to_numpy(float),
        text_loss=text.loc[runs["run_id"]].to_numpy(float),
        step_of_compute=pd.cut(np.log(runs["train_flops"]), 11, labels=False),
    )


def frontier(rows: pd.DataFrame) -> pd.DataFrame:
    """The checkpoint with the lowest loss on text in each step of compute."""
    return rows.loc[rows.groupby("step_of_compute")["text_loss"].idxmin()]


def main() -> None:
    runs, scores = rs.load_suite("gemstones"), rs.load_scores("gemstones")
    tables = {
        (t, g): checkpoints(runs, scores, t, g) for t, groups in TASKS.items() for g in groups
    }
    sizes = runs.groupby("model")["num_params"].first()
    kinds = [sizes.index[sizes > LARGE], sizes.index[sizes <= LARGE]]
    rng, records = np.random.default_rng(0), []
    for deal in range(DEALS):
        part = {m: k % 3 for kind in kinds for k, m in enumerate(rng.permutation(kind))}
        for (task, group), rows in tables.items():
            of = rows["model"].map(part)
            first = frontier(rows[(of == 0) & (rows["train_flops"] < BELOW)])
            held = frontier(rows[(of == 2) & (rows["train_flops"] > ABOVE)])
            before = first.loc[first["train_flops"].idxmax(), "accuracy"]
            for by in ("loss", "text_loss"):
                fit = rs.fit_forecast(first, error=by, score="accuracy", chance="free", law="power",
                                      second=rows[of == 1], windows=0)  # fmt: skip
                told = fit.predict(held["train_flops"])
                found = held[["run_id", "train_flops", "accuracy"]].assign(
                    deal=deal, task=task, group=group, by=by, before=before,
                    predicted=told["value"].to_numpy(), new_low=told["new_low"].to_numpy(), new_high=told["new_high"].to_numpy(),
                )  # fmt: skip
                records.append(found)
    table = pd.concat(records, ignore_index=True)
    columns = ["deal", "task", "group", "by", "run_id", "train_flops", "accuracy", "before", "predicted", "new_low", "new_high"]  # fmt: skip
    rs.write_table(table[columns].round(5), Path(__file__).parent / "forecasts.csv")


if __name__ == "__main__":
    main()

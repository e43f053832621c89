"""Make forecasts.csv and coverage.csv from two suites: python data/forecasts/make.py [FOLDER WITH gemstones/ AND gadre2024/]"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from relscale.laws.conformal import forecast_members

TOKENS = {"10B": 10_003_415_040, "120B": 120_040_980_480, "350B": 350_119_526_400}
NUM_SMALL = 14  # of 22 Gemstones models, by train_flops
LARGEST_FITTED = 412e6  # parameters, of Gadre's runs
LAWS = {"power": "train_flops", "saturating": "train_flops", "params_tokens": ("num_params", "num_tokens")}  # fmt: skip


def gemstones(folder: Path) -> pd.DataFrame:
    """One row a model, token count and MMLU subject."""
    losses = pd.read_parquet(folder / "gemstones" / "task_losses.parquet").query("task == 'mmlu'")
    sizes = pd.read_csv(folder / "gemstones" / "mmlu_domains.csv")
    sizes = sizes.drop_duplicates(["model", "step"])[["model", "step", "train_flops"]]
    rows = losses.merge(sizes, on=["model", "step"], validate="many_to_one")
    names = {v: k for k, v in TOKENS.items()}
    rows = rows.assign(setting=rows["tokens"].map(names)).dropna(subset="setting")
    rows = rows.rename(columns={"model": "run_id", "mean": "error"})
    return rows[["setting", "run_id", "train_flops", "group", "error"]]


def gadre(folder: Path) -> pd.DataFrame:
    """One row a run and validation set; train_flops is 6 N D."""
    rows = pd.read_csv(folder / "gadre2024" / "losses.csv").rename(
        columns={"corpus": "setting", "run": "run_id", "val": "group", "loss": "error",
                 "params": "num_params", "tokens": "num_tokens"}
    )  # fmt: skip
    rows["train_flops"] = 6.0 * rows["num_params"].astype(float) * rows["num_tokens"]
    return rows[["setting", "run_id", "num_params", "num_tokens", "train_flops", "group", "error"]]


def judged(small: pd.DataFrame, large: pd.DataFrame, level: float, **settings) -> pd.DataFrame:
    """Forecasts of the large runs from the small ones, with what they reached."""
    fit = forecast_members(small, level=level, **settings)
    parts = []
    for run, rows in large.groupby("run_id"):
        at = fit.predict(rows).merge(rows[["group", "error"]], on="group", validate="one_to_one")
        parts.append(at.assign(run_id=run))
    return pd.concat(parts).assign(level=level, law=fit.law)


def inner_error(rows: pd.DataFrame, law: str) -> float:
    """RMS log error of a law that is fitted to all but the largest size of the small runs, and judged by that size."""
    held = rows["num_params"] == rows["num_params"].max()
    at = judged(rows[~held], rows[held], 0.9, scale=LAWS[law], by="num_params", law=law)
    return float(np.sqrt(np.mean(np.log(at["error"] / at["value"]) ** 2)))


def main(folder: Path) -> None:
    found = []
    for setting, rows in gemstones(folder).groupby("setting"):
        runs = rows.drop_duplicates("run_id").sort_values("train_flops")["run_id"]
        small = rows["run_id"].isin(runs[:NUM_SMALL])
        for level in (0.9, 0.95):
            at = judged(rows[small], rows[~small], level)
            found.append(at.assign(suite="gemstones", setting=setting))
    parts = dict(gadre(folder).groupby("setting"))
    small = {name: part[part["num_params"] < LARGEST_FITTED] for name, part in parts.items()}
    misses = {law: [inner_error(part, law) for part in small.values()] for law in LAWS}
    print(pd.DataFrame(misses, index=list(small)).round(4))
    law = min(misses, key=lambda name: np.sqrt(np.mean(np.square(misses[name]))))
    for name, part in parts.items():
        large = part[part["num_params"] >= LARGEST_FITTED]
        for level in (0.9, 0.95):
            at = judged(small[name], large, level, scale=LAWS[law], by="num_params", law=law)
            found.append(at.assign(suite="gadre2024", setting=name))
    table = pd.concat(found, ignore_index=True)
    ends = {"low, high": "", "new_low, new_high": "new_", "far_low, far_high": "far_"}
    for name, key in ends.items():
        table[name] = (table[f"{key}low"] <= table["error"]) & (table["error"] <= table[f"{key}high"])  # fmt: skip
    cover = table.melt(["suite", "setting", "law", "level", "run_id"], list(ends), "interval", "inside")  # fmt: skip
    cover["inside"] = cover["inside"].astype(float)
    keys = ["suite", "setting", "law", "level", "interval"]
    by_run = cover.groupby([*keys, "run_id"])["inside"].agg(["mean", "size"]).reset_index()
    summary = by_run.groupby(keys).agg(
        runs=("mean", "size"), forecasts=("size", "sum"), covers=("mean", "mean"), error=("mean", "sem")
    )  # fmt: skip
    here = Path(__file__).parent
    summary.reset_index().round(4).to_csv(here / "coverage.csv", index=False)
    kept = table[table["level"] == 0.9]
    columns = ["suite", "setting", "law", "run_id", "group", "distance", "reached", "error", "value",
               "low", "high", "new_low", "new_high", "far_low", "far_high"]  # fmt: skip
    kept = kept[columns]
    kept.round(dict.fromkeys(columns[5:], 4)).to_csv(here / "forecasts.csv", index=False)
    print(summary.round(3).to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / ".." / "shared" / "data" / "suites"))  # fmt: skip

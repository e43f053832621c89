"""Writes far_intervals.csv beside this file: coverage of forecast intervals a decade beyond the data."""

from pathlib import Path

import numpy as np
import pandas as pd

from relscale.laws.curves import fit_power_law


def forecast_a_decade_beyond(share, num_budgets, n_sims=300, seed=0):
    """Coverage of new and far intervals, and the median width of far over the oracle's."""
    rng = np.random.default_rng(seed)
    x = np.append(np.geomspace(1e18, 1e20, num_budgets), 1e21)
    excess, floor = (x / 1e20) ** -0.15, share / (1 - share)
    truth, hits, width = floor + excess, np.zeros(2), []
    names = {"scale": "train_flops", "error": "loss"}
    for _ in range(n_sims):
        y = truth * np.exp(0.005 * rng.normal(size=len(x)))
        rows = pd.DataFrame({"train_flops": x[:-1], "loss": y[:-1]})
        row = fit_power_law(rows, **names).predict(1e21).iloc[0]
        hits += [row[f"{k}_low"] <= y[-1] <= row[f"{k}_high"] for k in ("new", "far")]
        told = fit_power_law(rows.assign(loss=y[:-1] - floor), **names).predict(1e21)
        oracle = np.log(told["new_high"] / told["new_low"]).item() * excess[-1] / truth[-1]
        width.append(np.log(row["far_high"] / row["far_low"]) / oracle)
    new, far = np.round(hits / n_sims, 4)
    return {"floor": round(share, 4), "budgets": num_budgets, "n_sims": n_sims, "new": new, "far": far,
            "width_over_oracle": round(float(np.median(width)), 3)}  # fmt: skip


if __name__ == "__main__":
    table = [forecast_a_decade_beyond(f, n) for f in (0.0, 1 / 3, 2 / 3) for n in (5, 7, 15)]
    where = Path(__file__).with_name("far_intervals.csv")
    pd.DataFrame(table).to_csv(where, index=False, lineterminator="\n")

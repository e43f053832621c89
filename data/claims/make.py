"""How often claims are shown that are false, and that are true, by rule, in simulated tables: errors.csv.

What the table holds already is not made again; `--fresh` begins anew.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtr

from relscale.laws.intervals import adjust_p, line_coordinates, max_t
from relscale.laws.lines import fit_lines
from relscale.tables import read_table, write_table

HERE = Path(__file__).resolve().parent
FLOPS = np.geomspace(1e18, 1e20, 7)
OWN, TRUE = (
    0.003,
    -0.004,
)  # luck of a group's log error at a budget; delta_beta of a claim that is true
DESIGNS = ((4, 4), (16, 4), (16, 16))  # groups of the table, and how many of them are claimed
RULES = ("none", "claims", "groups")


def draw(num_groups: int, num_claims: int, rng: np.random.Generator) -> np.ndarray:
    """Log G of every group (groups, budgets); the first half of the claims is true, all else has no slope."""
    x = np.log(FLOPS)
    own = OWN * rng.standard_normal((num_groups + 1, len(x)))
    slope = np.where(np.arange(num_groups) < num_claims // 2, TRUE, 0.0)
    return own[1:] - own[0] + slope[:, None] * (x - x.mean())


def p_values(log_ratio: np.ndarray, num_claims: int, seed: int) -> dict[str, np.ndarray]:
    """P of the claims by each rule."""
    x = np.log(FLOPS)
    lines = fit_lines(x, log_ratio)
    p = 2 * stdtr(lines.degrees_of_freedom, -np.abs(lines.slope) * np.sqrt(lines.sxx) / lines.sigma)
    joint = max_t(line_coordinates(x, log_ratio), n_draws=1000, seed=seed)
    own = p[:num_claims]
    return {"none": own, "claims": adjust_p(own), "groups": joint[:num_claims]}


def simulate(num_groups: int, num_claims: int, n_sims: int, alpha: float = 0.05) -> list[dict]:
    """Rows of the table, one a rule."""
    rng, true = np.random.default_rng(num_groups * 100 + num_claims), num_claims // 2
    found = {rule: np.zeros((n_sims, num_claims), bool) for rule in RULES}
    for i in range(n_sims):
        log_ratio = draw(num_groups, num_claims, rng)
        for rule, p in p_values(log_ratio, num_claims, i).items():
            found[rule][i] = p < alpha
    rows = []
    for rule, called in found.items():
        wrong = called[:, true:].any(axis=1).mean()
        rows.append({
            "num_groups": num_groups, "num_claims": num_claims, "rule": rule, "alpha": alpha, "delta_beta": TRUE, "n_sims": n_sims,
            "false_any": wrong, "stderr": np.sqrt(max(wrong * (1 - wrong), 1e-9) / n_sims), "power": called[:, :true].mean(),
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--n-sims", type=int, default=4000)
    options.add_argument("--fresh", action="store_true")
    asked, path = options.parse_args(), HERE / "errors.csv"
    rows = [] if asked.fresh or not path.exists() else read_table(path).to_dict("records")
    for num_groups, num_claims in DESIGNS:
        if any((r["num_groups"], r["num_claims"]) == (num_groups, num_claims) for r in rows):
            continue
        rows += simulate(num_groups, num_claims, asked.n_sims)
        write_table(pd.DataFrame(rows), path)
        print(f"{num_groups} groups, {num_claims} claims")

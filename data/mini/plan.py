"""The plans of the mini-suite: python data/mini/plan.py FOLDER writes one file a piece, such as main.json."""

import dataclasses
import sys
from pathlib import Path

from relscale.core import write_atomic
from relscale.plan.flops import forward_flops_per_token
from relscale.plan.recipes import SMALL, Plan, model_of_width, plan_isoflop, plan_run, save_plan
from relscale.plan.spec import OptimSpec, RunSpec

RECIPE = dataclasses.replace(SMALL, name="mini", seq_len=256)
DOMAINS = ("code", "docs", "bible", "licences")
BUDGETS = (7e10, 1.25e11, 2.2e11, 4e11, 7e11, 1.25e12, 2.2e12)  # training FLOPs of one run
SPARSE = (7e10, 2.2e11, 4e11, 1.25e12)  # for what is trained many times over
MAIN_SEEDS, SEEDS = (0, 1, 2), (0, 1)
SHARES = (0.0, 0.03, 0.1, 0.5, 0.75)  # of licences; a quarter is the main suite's own
OPTIMIZERS = ("adamw", "adamc", "cautious-adamw", "muon")  # beside the main suite's c-adamc
# The recipe's rate is best of the grid of tune.csv, or within 0.001 bits, for each rule of Adam, at both cells. Muon's
# best lies at 0.0047 and 0.0053, whatever the width.
MUON_LEARNING_RATE = 0.005


def mixture(domain: str, share: float) -> tuple[tuple[str, float], ...]:
    """A share for one domain, the rest in equal parts for the others."""
    rest = (1 - share) / (len(DOMAINS) - 1)
    weights = {name: share if name == domain else rest for name in DOMAINS}
    return tuple((name, weight) for name, weight in weights.items() if weight > 0)


def with_optimizer(run: RunSpec, name: str, learning_rate: float) -> RunSpec:
    """The same run under another optimizer and learning rate."""
    own, shared = learning_rate, {"beta2": run.optim.beta2}
    shared |= {"warmup": run.optim.warmup, "decay": run.optim.decay}
    optim = {
        "c-adamc": OptimSpec(own, **shared),
        "adamw": OptimSpec(own, **shared, cautious=False, corrected_decay=False),
        "adamc": OptimSpec(own, **shared, cautious=False),
        "cautious-adamw": OptimSpec(own, **shared, corrected_decay=False),
        "muon": OptimSpec(
            own,
            **shared,
            cautious=False,
            corrected_decay=False,
            rule="muon",
            adam_learning_rate=run.optim.learning_rate,
        ),
    }[name]
    corpus = f"{run.corpus}-{name}"
    return dataclasses.replace(
        run, optim=optim, corpus=corpus, run_id=run.run_id.replace(run.corpus, corpus, 1)
    )


def uniform(budgets, seeds) -> Plan:
    """The suite on an equal mixture."""
    return plan_isoflop(
        budgets,
        RECIPE,
        corpora=("uniform",),
        mixture=mixture(DOMAINS[0], 1 / len(DOMAINS)),
        seeds=seeds,
        min_sizes=4,
    )


def main_plan() -> Plan:
    """Seven budgets, four sizes, three seeds."""
    return uniform(BUDGETS, MAIN_SEEDS)


def mixtures_plan() -> Plan:
    """Five shares of licences, four budgets, four sizes, two seeds."""
    runs = []
    for share in SHARES:
        plan = plan_isoflop(
            SPARSE,
            RECIPE,
            corpora=(f"licences-{share:g}",),
            mixture=mixture("licences", share),
            seeds=SEEDS,
            min_sizes=4,
        )
        runs.extend(plan.runs)
    return Plan(RECIPE, SPARSE, tuple(runs))


def optimizers_plan() -> Plan:
    """Four optimizers beside the main suite's C-AdamC: four budgets, four sizes, two seeds."""
    base = uniform(SPARSE, SEEDS).runs
    runs = []
    for name in OPTIMIZERS:
        rates = [MUON_LEARNING_RATE if name == "muon" else run.optim.learning_rate for run in base]
        runs.extend(with_optimizer(run, name, rate) for run, rate in zip(base, rates, strict=True))
    return Plan(RECIPE, SPARSE, tuple(runs))


def slices_plan() -> Plan:
    """Model size scaled at a million tokens, and tokens scaled at one model size; two seeds."""
    free = dataclasses.replace(RECIPE, tokens_per_param=(0.0, 1e12), tolerance=0.02)
    points = [("model-slice", 2**20, hidden) for hidden in (8, 16, 24, 32, 48, 64)]
    points += [("token-slice", 2**k, 40) for k in range(17, 22)]
    runs = []
    for corpus, tokens, hidden in points:
        token_flops = forward_flops_per_token(model_of_width(hidden, free), free.seq_len)["total"]
        for seed in SEEDS:
            budget = 3 * token_flops * tokens
            run = plan_run(
                budget, hidden, free, corpus=corpus, mixture=mixture(DOMAINS[0], 0.25), seed=seed
            )
            runs.append(run)
    return Plan(free, tuple(sorted({run.budget_flops for run in runs})), tuple(runs))


def tune_plan() -> Plan:
    """Learning rates for each optimizer, at two cells of the grid, with a seed of their own."""
    cells = [r for r in uniform(SPARSE, (9,)).runs if r.budget_flops in (7e10, 4e11)]
    cells = [
        [r for r in cells if r.budget_flops == budget][k] for budget, k in ((7e10, 1), (4e11, 2))
    ]
    runs = []
    for name in ("c-adamc", *OPTIMIZERS):
        for rate in (0.5, 1, 2, 4, 8)[: 4 if name != "muon" else 5]:
            for cell in cells:
                run = with_optimizer(cell, name, cell.optim.learning_rate * rate)
                corpus = f"{run.corpus}-x{rate:g}"
                run_id = run.run_id.replace(run.corpus, corpus, 1)
                runs.append(dataclasses.replace(run, corpus=corpus, run_id=run_id))
    return Plan(RECIPE, SPARSE, tuple(runs))


PLANS = {
    "main": main_plan,
    "mixtures": mixtures_plan,
    "optimizers": optimizers_plan,
    "slices": slices_plan,
    "tune": tune_plan,
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PLANS.items():
        plan = make()
        write_atomic(folder / f"{name}.json", save_plan(plan))
        print(f"{name}: {len(plan.runs)} runs, {plan.train_flops:.3g} training FLOPs")

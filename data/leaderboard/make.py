"""Make runs.csv and scores.parquet from a checkout of felipemaiapolo/sloth: python data/leaderboard/make.py CHECKOUT"""

import sys
from pathlib import Path

import pandas as pd

from relscale.core import data_path
from relscale.eval.items import MMLU_DOMAINS
from relscale.tables import validate_runs, validate_scores, write_table

TASKS = {  # column: task and group
    "ARC": ("arc", "challenge"),
    "HellaSwag": ("hellaswag", "all"),
    "Winogrande": ("winogrande", "all"),
    "TruthfulQA": ("truthfulqa", "all"),
    "GSM8K": ("gsm8k", "all"),
}
DOMAIN = {subject: domain for domain, names in MMLU_DOMAINS.items() for subject in names}
QUESTIONS = pd.read_csv(data_path("gemstones/subjects.csv"), index_col="member")["n"]


def main(checkout: str) -> None:
    table = pd.read_csv(Path(checkout) / "data/data_v1.csv")
    subjects = [f"hendrycksTest-{name}" for name in DOMAIN]
    base = table[~table["Instruct"].astype(bool)]
    base = base[base[[*subjects, "FLOPs (1E21)"]].notna().all(axis=1)]
    runs = pd.DataFrame(
        {
            "run_id": base["Model"],
            "suite": "leaderboard",
            "corpus": "each its own",
            "status": "finished",
            "budget_flops": base["FLOPs (1E21)"] * 1e21,
            "train_flops": base["FLOPs (1E21)"] * 1e21,
            "num_params": (base["#Params (B)"] * 1e9).round().astype("int64"),
            "num_tokens": (base["Pretraining Data Size (T)"] * 1e12).round().astype("int64"),
            "family": base["Family"],
        }
    ).sort_values(["family", "num_params", "run_id"])
    columns = {f"hendrycksTest-{s}": ("mmlu", DOMAIN[s], s) for s in sorted(DOMAIN)}
    columns |= {column: (task, group, None) for column, (task, group) in TASKS.items()}
    scores = pd.concat(
        pd.DataFrame(
            {
                "run_id": runs["run_id"],
                "task": task,
                "group": group,
                "metric": "accuracy",
                "value": base.set_index("Model").loc[runs["run_id"], column].to_numpy(),
                "n": QUESTIONS.get(member),
                "higher_is_better": True,
                "task_version": "open_llm_leaderboard_v1",
                "member": member,
            }
        )
        for column, (task, group, member) in columns.items()
    )
    here = Path(__file__).parent
    write_table(validate_runs(runs), here / "runs.csv")
    write_table(validate_scores(scores), here / "scores.parquet")


if __name__ == "__main__":
    main(sys.argv[1])

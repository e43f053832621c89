"""Make runs.csv, scores.parquet and untrained.parquet from a checkout of EleutherAI/pythia: python data/pythia/make.py CHECKOUT"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from relscale.core import UserError
from relscale.eval.items import MMLU_DOMAINS
from relscale.tables import validate_runs, validate_scores, write_table

SEQ_LEN, BATCH, STEPS, SEED = 2048, 1024, 143_000, 1234
PART = ["task", "group", "member"]
SHAPES = {  # width, depth, rows of an embedding (padded), peak learning rate
    "70m": (512, 6, 50_304, 1.0e-3),
    "160m": (768, 12, 50_304, 6.0e-4),
    "410m": (1024, 24, 50_304, 3.0e-4),
    "1b": (2048, 16, 50_304, 3.0e-4),
    "1.4b": (2048, 24, 50_304, 2.0e-4),
    "2.8b": (2560, 32, 50_304, 1.6e-4),
    "6.9b": (4096, 32, 50_432, 1.2e-4),
    "12b": (5120, 36, 50_688, 1.2e-4),
}
PATH = re.compile(r"pythia-([\d.]+[mb])(-deduped)?(?:-bf16)?/zero-shot/.+_step(\d+)\.json")
METRICS = {  # in the files: metric of the contract, better upwards
    "acc": ("accuracy", True),
    "acc_norm": ("accuracy_per_char", True),
    "ppl": ("perplexity", False),
    "likelihood_difference": ("likelihood_difference", False),
    "pct_stereotype": ("stereotype_share", False),
}
DOMAIN = {subject: domain for domain, names in MMLU_DOMAINS.items() for subject in names}
COUNTED = ("acc", "acc_norm", "pct_stereotype")  # shares: their standard errors tell the number


def read_run(size: str, deduped: bool, step: int) -> dict:
    """The row of `runs.csv` of one checkpoint."""
    hidden, num_layers, rows, rate = SHAPES[size]
    blocks = num_layers * (12 * hidden**2 + 13 * hidden) + 2 * hidden
    tokens = float(step) * BATCH * SEQ_LEN
    forward_flops = tokens * (2 * (blocks + rows * hidden) + 4 * num_layers * hidden * SEQ_LEN)
    block = size + ("-deduped" if deduped else "")
    end = step == STEPS
    return {
        "run_id": block if end else f"{block}@{step}", "suite": "pythia",
        "corpus": "pile_deduped" if deduped else "pile", "seed": SEED, "status": "finished" if end else "checkpoint",
        "budget_flops": 3 * forward_flops, "forward_flops": forward_flops, "train_flops": 3 * forward_flops,
        "num_params": blocks + 2 * rows * hidden, "num_tokens": int(tokens), "hidden": hidden,
        "num_layers": num_layers, "batch_size": BATCH, "num_steps": step, "seq_len": SEQ_LEN,
        "learning_rate": rate, "family": "pythia_deduped" if deduped else "pythia", "block": block,
        "size": size, "num_params_matmul": blocks + rows * hidden,
    }  # fmt: skip


def name_task(task: str) -> tuple[str, str, str | None]:
    """(task, group, member) of a name in the files."""
    if task.startswith("crows_pairs_"):
        language, _, kind = task.removeprefix("crows_pairs_").partition("_")
        if not kind:
            return "crows_pairs_total", language, None
        return "crows_pairs", language, f"{language}_{kind.replace('autre', 'other')}"
    if task.startswith("hendrycksTest-"):
        subject = task.removeprefix("hendrycksTest-")
        return "mmlu", DOMAIN[subject], subject
    return task, "all", None


def read_scores(run_id: str, record: dict) -> list[dict]:
    """Rows of `scores.parquet` of one evaluation file."""
    rows = []
    for name, values in record["results"].items():
        task, group, member = name_task(name)
        for key, (metric, better) in METRICS.items():
            if key not in values:
                continue
            value, stderr = values[key], values[f"{key}_stderr"]
            counted = key in COUNTED and stderr > 0
            rows.append({
                "run_id": run_id, "task": task, "group": group, "metric": metric, "value": value,
                "stderr": stderr, "n": value * (1 - value) / stderr**2 + 1 if counted else np.nan,
                "higher_is_better": better, "task_version": str(record["versions"][name]),
                "member": member,
            })  # fmt: skip
    return rows


def fill_counts(scores: pd.DataFrame) -> pd.DataFrame:
    """The number of items of each group, which its shares tell: the same in all files."""
    found = scores.dropna(subset="n")
    counts = found.groupby(PART, dropna=False)["n"].agg(["min", "max", "median"])
    wrong = counts[(counts["max"] - counts["min"]) > 1e-3 * counts["median"]]
    if len(wrong):
        raise UserError(f"{wrong.index[0]}: the standard errors tell {wrong.iloc[0].to_dict()} items")  # fmt: skip
    whole = counts["median"].round().astype(int).rename("n")
    return scores.drop(columns="n").merge(whole, on=PART, how="left")


def read_checkout(folder: Path | str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Runs, scores, and scores of the untrained models of a checkout, validated."""
    here, runs, scores = Path(folder) / "evals" / "pythia-v1", [], []
    for path in here.glob("*/zero-shot/*.json"):
        if not (match := PATH.fullmatch(path.relative_to(here).as_posix())):
            raise UserError(f"{path}: not a name such as 70m-deduped_step1000.json: move it away")
        run = read_run(match[1], bool(match[2]), int(match[3]))
        runs.append(run)
        scores += read_scores(run["run_id"], json.loads(path.read_text("utf-8")))
    if not runs:
        raise UserError(f"{here}: no zero-shot evaluations: give a checkout of EleutherAI/pythia")
    runs = pd.DataFrame(runs).sort_values(["corpus", "num_params", "num_steps"], ignore_index=True)
    rank = dict(zip(runs["run_id"], range(len(runs)), strict=True))
    scores = fill_counts(pd.DataFrame(scores)).assign(_rank=lambda d: d["run_id"].map(rank))
    scores = scores.sort_values(["task", "metric", "group", "member", "_rank"]).drop(
        columns="_rank"
    )
    new = scores["run_id"].str.endswith("@0")
    runs = validate_runs(runs[runs["num_steps"] > 0])
    return runs, validate_scores(scores[~new]), validate_scores(scores[new])


def main(folder: str) -> None:
    runs, scores, untrained = read_checkout(folder)
    here = Path(__file__).parent
    write_table(runs, here / "runs.csv")
    write_table(scores, here / "scores.parquet")
    write_table(untrained, here / "untrained.parquet")
    print(f"{len(runs)} checkpoints, {len(scores)} scores, {len(untrained)} of untrained models")


if __name__ == "__main__":
    main(sys.argv[1])

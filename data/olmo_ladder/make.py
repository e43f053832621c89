"""Make runs.csv and scores.parquet from the ladder's exports: python data/olmo_ladder/make.py FOLDER"""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from relscale.tables import validate_runs, validate_scores, write_table

VOCABULARY, SEQ_LEN = 100_352, 4096
SHAPES = {  # parameters without the input embedding, width, depth
    "190M": (190_354_176, 768, 12),
    "370M": (371_262_464, 1024, 16),
    "760M": (758_220_288, 1536, 16),
    "1B": (1_279_395_840, 2048, 16),
    "3B": (3_169_537_280, 3328, 16),
}
METRICS = {  # suffix of a downstream column: metric of the contract; all but bits are better upwards
    "bpb": "bits_per_byte",
    "acc": "accuracy",
    "len_norm": "accuracy_per_char",
    "soft": "choice_probability",
    "soft_log": "choice_log_probability",
}
DOWNSTREAM = re.compile(
    r"eval/downstream\w*/(.+)_(val|test)_rc_5shot_(bpb|acc|len_norm|soft|soft_log)"
)
TEXT = re.compile(r"eval/(.+)-validation/CrossEntropyLoss")


def name(column: str) -> tuple[str, str, str, str, bool] | None:
    """(task, group, metric, version, higher is better) of an eval column; None for any other column."""
    if match := TEXT.fullmatch(column):
        return "text", match[1], "nats_per_token", "v3_small_dolma2-tokenizer", False
    if not (match := DOWNSTREAM.fullmatch(column)):
        return None
    label, split, suffix = match.groups()
    family = next((f for f in ("mmlu", "arc") if label.startswith(f + "_")), None)
    task, group = (family, label.removeprefix(family + "_")) if family else (label, "all")
    return f"{task}_{split}", group, METRICS[suffix], "rc_5shot", suffix != "bpb"


def thin(steps: pd.Series) -> list[int]:
    """Rows to keep: the evaluation nearest to each tenth of the run; the last is the run's end."""
    return [int((steps - k / 10 * steps.iloc[-1]).abs().idxmin()) for k in range(1, 11)]


def main(folder: str) -> None:
    runs, scores = [], []
    for path in sorted(Path(folder).glob("*xC*.csv")):
        size, length = path.stem.split("-")[:2]
        params, hidden, num_layers = SHAPES[size]
        log = pd.read_csv(path)
        kept = log.loc[thin(log["_step"])]
        tokens = kept["throughput/total_tokens"].astype(float)  # FLOPs overflow an int64
        last = kept.index == log.index[-1]
        train_flops = kept["throughput/total_training_Gflops"] * 1e9
        attention = 4 * num_layers * hidden * SEQ_LEN  # FLOPs a token, forward
        num_params = params + VOCABULARY * hidden
        logged = 2 * params + 4 * num_params + 3 * attention
        assert np.allclose(train_flops, tokens * logged, rtol=1e-12), path
        rows = pd.DataFrame(
            {
                "run_id": [
                    path.stem if end else f"{path.stem}@{s}"
                    for end, s in zip(last, kept["_step"], strict=True)
                ],
                "suite": "olmo_ladder",
                "corpus": "olmoe-mix-0924",
                "status": np.where(last, "finished", "checkpoint"),
                "budget_flops": train_flops,
                "forward_flops": tokens * (2 * params + attention),
                "train_flops": train_flops,
                "num_params": num_params,
                "num_tokens": tokens.astype("int64"),
                "hidden": hidden,
                "num_layers": num_layers,
                "batch_size": (kept["batch_size_in_tokens"] / SEQ_LEN).astype("int64"),
                "num_steps": kept["_step"],
                "seq_len": SEQ_LEN,
                "learning_rate": kept["learning_rate_peak"],
                "learning_rate_now": kept["optim/learning_rate_group0"],
                "block": path.stem,
                "size": size,
                "chinchilla": float(length.removesuffix("xC")),
                "repeat": 2 if path.stem.endswith("-rerun") else 1,
                "num_params_matmul": params,
            }
        )
        runs.append(rows)
        for column in log.columns:
            if (named := name(column)) is None:
                continue
            task, group, metric, version, better = named
            value = kept[column].to_numpy()
            assert (value.astype("float32") == value).all(), column
            scores.append(
                pd.DataFrame(
                    {
                        "run_id": rows["run_id"],
                        "task": task,
                        "group": group,
                        "metric": metric,
                        "value": value,
                        "higher_is_better": better,
                        "task_version": version,
                    }
                )
            )
    runs = pd.concat(runs).sort_values(["num_params", "chinchilla", "repeat", "num_steps"])
    scores = pd.concat(scores)
    scores["run_id"] = pd.Categorical(scores["run_id"], runs["run_id"])
    scores = scores.sort_values(["task", "metric", "group", "run_id"])
    scores["run_id"] = scores["run_id"].astype(str)
    assert len(runs) == 300 and len(scores) == 300 * 91
    here = Path(__file__).parent
    write_table(validate_runs(runs), here / "runs.csv")
    write_table(validate_scores(scores), here / "scores.parquet")


if __name__ == "__main__":
    main(sys.argv[1])

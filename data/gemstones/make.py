"""Make runs.csv, scores.parquet, items.parquet and subjects.csv from a checkout of mcleish7/gemstone-scaling-laws.

python data/gemstones/make.py CHECKOUT [--all]      --all: items of every checkpoint, not of ten
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from relscale.eval.items import MMLU_DOMAINS
from relscale.tables import validate_runs, validate_scores, write_table

SEQ_LEN = BATCH = 2048
VOCABULARY, HEAD, LAST = 50_304, 128, 83_475  # `main` is the checkpoint of the last step
STEPS = (2385, 4770, 9540, 14310, 19080, 28620, 40545, 52470, 66780, LAST)  # whose items ship
TASKS = {  # name in the files of losses: task and group here
    "arce": ("arc", "easy"),
    "arcc": ("arc", "challenge"),
    "hellaswag": ("hellaswag", "all"),
    "coqa": ("csqa", "all"),
    "openbook": ("openbookqa", "all"),
    "piqa": ("piqa", "all"),
    "siqa": ("socialiqa", "all"),
    "winogrande": ("winogrande", "all"),
}
ACCURACIES = {  # column of light_eval_df: task and group here, and questions asked (0: not stated)
    "arc:easy": ("arc", "easy", 1000),
    "arc:challenge": ("arc", "challenge", 1000),
    "commonsense_qa": ("csqa", "all", 1000),
    "hellaswag": ("hellaswag", "all", 1000),
    "mmlu": ("mmlu", "all", 0),
    "openbookqa": ("openbookqa", "all", 500),
    "piqa": ("piqa", "all", 1000),
    "siqa": ("socialiqa", "all", 1000),
    "winogrande": ("winogrande", "all", 1000),
}
DOMAIN = {subject: domain for domain, names in MMLU_DOMAINS.items() for subject in names}


def flops_per_token(width: int, depth: int) -> tuple[float, float]:
    """Forward FLOPs a token, and those of training, by the authors' count (causal attention counted by half)."""
    scores = SEQ_LEN * (width + width // HEAD)  # query times key; 3 a head for the softmax
    linear, outside = 30 * width**2 + 61.25 * width, 7 * width + 2 * width * VOCABULARY
    forward = depth * (linear + 3 * scores) + outside
    return forward, 3 * forward + depth * 1.5 * scores  # flash attention computes scores again


def num_params(width: int, depth: int) -> int:
    """All parameters: two query heads share a key and a value, gated MLPs are 4 wide, the head is untied."""
    heads = width // HEAD
    attention = width * (heads + 2 * (heads // 2)) * HEAD + width**2
    return depth * (attention + 12 * width**2 + 2 * width) + width + 2 * width * VOCABULARY


def run_of(model: str, revision: str) -> dict:
    """One row of the runs table, from names such as Gemstone-1024x28 and step_00002385."""
    width, depth = map(int, re.fullmatch(r"Gemstone-(\d+)x(\d+)", model).groups())
    step = LAST if revision == "main" else int(revision.removeprefix("step_"))
    forward, train = flops_per_token(width, depth)
    tokens, name = step * BATCH * SEQ_LEN, f"{width}x{depth}"
    return {
        "run_id": name if step == LAST else f"{name}@{step}", "suite": "gemstones", "corpus": "dolma",
        "status": "finished" if step == LAST else "checkpoint", "budget_flops": tokens * train,
        "forward_flops": tokens * forward, "train_flops": tokens * train, "num_params": num_params(width, depth),
        "num_tokens": tokens, "hidden": width, "num_layers": depth, "batch_size": BATCH, "num_steps": step,
        "seq_len": SEQ_LEN, "block": name, "model": name, "step": step,
    }  # fmt: skip


def score(run_id: str, task: str, group: str, values: list[float], member: str | None) -> dict:
    """Mean loss of the items of a task, with its standard error over items."""
    values = np.asarray(values, float)
    return {
        "run_id": run_id, "task": task, "group": group, "metric": "loss", "value": values.mean(),
        "stderr": values.std(ddof=1) / np.sqrt(len(values)), "n": len(values), "higher_is_better": False,
        "task_version": "gemstones", "member": member,
    }  # fmt: skip


def accuracies(folder: Path) -> pd.DataFrame:
    """The tables of lighteval in the form of scores."""
    values, errors = (
        pd.read_parquet(folder / f"light_eval_df{end}.parquet") for end in ("", "_err")
    )
    found = []
    for column, (task, group, n) in ACCURACIES.items():
        for name, value in values[column].items():
            model, revision = re.fullmatch(r"(Gemstone-\d+x\d+)-(main|step_\d+)", name).groups()
            # the error of MMLU is the mean of 57 subjects' errors, not that of their mean
            stderr = errors.loc[name, column] if n else None
            found.append({"run_id": run_of(model, revision)["run_id"], "task": task, "group": group,
                          "metric": "accuracy_per_char", "value": value, "stderr": stderr, "n": n or None,
                          "higher_is_better": True, "task_version": "lighteval", "member": None})  # fmt: skip
    return pd.DataFrame(found)


def read_checkout(root: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict]:
    """Runs, scores, names of MMLU's items, and the losses of the items of every run."""
    folder, runs, scores, items, names = root / "benchmarks", [], [], {}, None
    for place in sorted((folder / "bhagia_task_losses").glob("Gemstone-*/*")):
        run = run_of(place.parent.name, place.name)
        runs.append(run)
        for file, (task, group) in TASKS.items():
            losses = json.loads((place / f"losses_{file}.json").read_text())
            for part, values in losses.items():  # one part, main; HellaSwag has two
                member = None if part == "main" else part
                scores.append(score(run["run_id"], task, group, values, member))
        losses = json.loads((place / "losses_mmlu.json").read_text())
        losses = {subject: losses[subject] for subject in sorted(losses)}
        for subject, values in losses.items():
            scores.append(score(run["run_id"], "mmlu", DOMAIN[subject], values, subject))
        keys = [(DOMAIN[s], s, k) for s, values in losses.items() for k in range(len(values))]
        assert names is None or names == keys, f"{place}: other items than the runs before"
        names = keys
        items[run["run_id"]] = np.concatenate(list(losses.values())).astype(np.float16)
    text = {"dclm_losses": "dclm", "fineweb_losses": "fineweb", "fineweb_edu_losses": "fineweb_edu"}
    for place, group in text.items():
        for file in sorted((root / "other_validation_losses" / place).glob("*.json")):
            for revision, value in json.loads(file.read_text()).items():
                scores.append({"run_id": run_of(file.stem, revision)["run_id"], "task": "text", "group": group,
                               "metric": "loss", "value": value, "stderr": None, "n": None,
                               "higher_is_better": False, "task_version": "gemstones", "member": None})  # fmt: skip
    runs = validate_runs(pd.DataFrame(runs).sort_values(["num_params", "model", "step"]))
    scores = pd.concat([pd.DataFrame(scores), accuracies(folder)])
    scores["run_id"] = pd.Categorical(scores["run_id"], runs["run_id"])
    scores = scores.sort_values(["task", "metric", "group", "member", "run_id"])
    scores["run_id"] = scores["run_id"].astype(str)
    names = pd.DataFrame(names, columns=["group", "member", "item"])
    names.insert(0, "task", "mmlu")
    return runs, validate_scores(scores), names, items


def write_items(names: pd.DataFrame, items: dict, path: Path) -> None:
    """One row an item, one float16 column a run: what is not asked for is not read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(names.assign(item=names["item"].astype("int16")))
    for run_id, losses in items.items():
        table = table.append_column(run_id, pa.array(losses))
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=["task", "group", "member"],
                   column_encoding=dict.fromkeys(items, "BYTE_STREAM_SPLIT"))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--all", action="store_true", help="items of every checkpoint")
    choice, here = parser.parse_args(), Path(__file__).parent
    runs, scores, names, items = read_checkout(choice.checkout)
    write_table(runs, here / "runs.csv")
    write_table(scores, here / "scores.parquet")
    subjects = names.groupby(["group", "member"], as_index=False).size()
    write_table(subjects.rename(columns={"size": "n"}), here / "subjects.csv")
    kept = runs["run_id"] if choice.all else runs.loc[runs["step"].isin(STEPS), "run_id"]
    write_items(names, {run_id: items[run_id] for run_id in kept}, here / "items.parquet")

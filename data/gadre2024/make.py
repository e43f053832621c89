"""Make runs.csv and scores.parquet from a checkout of mlfoundations/scaling: python data/gadre2024/make.py CHECKOUT"""

import json
import sys
from pathlib import Path

import pandas as pd

from relscale.core import UserError
from relscale.tables import validate_runs, validate_scores, write_table

SEQ_LEN, VOCABULARY = 2048, 50_432
CORPORA = {"c4_original": "c4", "rpj": "redpajama", "rw_original": "refinedweb"}
SHAPES = {  # name of the model: width, depth
    "d=96_l=8_h=4": (96, 8),
    "d=512_l=8_h=4": (512, 8),
    "d=576_l=24_h=8": (576, 24),
    "d=1024_l=24_h=8": (1024, 24),
    "open_lm_1b": (2048, 24),
    "open_lm_7b": (4096, 32),
}
TEXTS = {  # folder of the validation files: group
    "openlm": "openlm",
    "c4_val": "c4_val",
    "paloma_c4_en": "paloma_c4_en",
    "paloma_dolma_100_programing_languages": "paloma_programming_languages",
    "paloma_falcon-refinedweb": "paloma_refinedweb",
    "paloma_ptb": "paloma_ptb",
    "paloma_redpajama": "paloma_redpajama",
    "de-en": "c4_german",
}
TOTAL_WIDTH = 2 * 1.959963984540054  # of a 95 % interval, in standard errors


def read_run(record: dict) -> dict:
    """The row of `runs.csv` of one model file."""
    made = record["hyperparameters"]
    name = Path(made["model"]).name.removesuffix(".json")
    if name not in SHAPES:
        raise UserError(f"{record['name']}: no shape {name!r}: add it to SHAPES")
    hidden, num_layers = SHAPES[name]
    params, matmul, tokens = made["params"], made["params_no_embed"], float(made["tokens"])
    if params - matmul != VOCABULARY * hidden:
        raise UserError(f"{record['name']}: {params - matmul} parameters are not the embedding's")
    arguments = record["open_lm_args"]
    forward_flops = tokens * (2 * matmul + 4 * num_layers * hidden * SEQ_LEN)
    return {
        "run_id": record["name"], "suite": "gadre2024", "corpus": CORPORA[record["dataset_name"]],
        "seed": int(arguments[arguments.index("--seed") + 1]), "status": "finished",
        "budget_flops": 6.0 * params * tokens, "forward_flops": forward_flops,
        "train_flops": 3 * forward_flops, "num_params": params, "num_tokens": made["tokens"],
        "hidden": hidden, "num_layers": num_layers,
        "batch_size": made["global_bs"] if made["global_bs"] > 1 else None,
        "seq_len": SEQ_LEN, "learning_rate": made["lr"], "weight_decay": made["wd"],
        "family": CORPORA[record["dataset_name"]], "size": name,
        "token_multiplier": made["chinchilla_multiplier"], "num_params_matmul": matmul,
    }  # fmt: skip


def read_texts(record: dict) -> list[dict]:
    """Rows of `scores.parquet` of one model file: nats per token of each validation set."""
    rows = []
    for result in record["results"]:
        folder = result["val_data"][0].split("/")[-2]
        ends = [result[f"loss_{by}_{end}_95"] for by in ("sequences", "tokens") for end in ("lower", "upper")]  # fmt: skip
        rows.append({
            "run_id": record["name"], "task": "text", "group": TEXTS[folder],
            "metric": "nats_per_token", "value": result["loss"],
            "stderr": (ends[1] - ends[0]) / TOTAL_WIDTH, "n": result["sequences"],
            "higher_is_better": False, "task_version": "val_tok_mult",
            "token_stderr": (ends[3] - ends[2]) / TOTAL_WIDTH, "num_tokens_scored": result["tokens"],
        })  # fmt: skip
    return rows


def read_questions(name: str, record: dict, sizes: dict) -> list[dict]:
    """Rows of `scores.parquet` of one evaluation file: accuracy of each question set."""
    results = record["eval_metrics"]["icl"]
    return [
        {"run_id": name, "task": task, "group": "all", "metric": "accuracy", "value": value,
         "n": sizes.get(task), "higher_is_better": True, "task_version": "heavy"}
        for task, value in results.items()
    ]  # fmt: skip


def read_checkout(folder: Path | str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs and the scores of a checkout, validated."""
    here = Path(folder) / "exp_data"
    paths = sorted((here / "models").glob("*.json"))
    if not paths:
        raise UserError(f"{here / 'models'}: no model files: give a checkout of mlfoundations/scaling")  # fmt: skip
    about = pd.read_csv(here / "eval_metadata.csv").set_index("Eval Task")
    sizes, runs, scores = about["#datapoints"].to_dict(), [], []
    for path in paths:
        record = json.loads(path.read_text(encoding="utf-8"))
        runs.append(read_run(record))
        scores += read_texts(record)
        asked = here / "evals" / f"evaluation_{path.stem}_heavy.json"
        scores += read_questions(record["name"], json.loads(asked.read_text("utf-8")), sizes)
    order = ["corpus", "num_params", "token_multiplier"]
    runs = validate_runs(pd.DataFrame(runs).sort_values(order, ignore_index=True))
    scores = pd.DataFrame(scores)
    rank = dict(zip(runs["run_id"], range(len(runs)), strict=True))
    scores = scores.assign(_rank=scores["run_id"].map(rank)).sort_values(
        ["task", "metric", "group", "_rank"]
    )
    return runs, validate_scores(scores.drop(columns="_rank"))


def main(folder: str) -> None:
    runs, scores = read_checkout(folder)
    here = Path(__file__).parent
    write_table(runs, here / "runs.csv")
    write_table(scores, here / "scores.parquet")
    print(f"{len(runs)} runs, {len(scores)} scores")


if __name__ == "__main__":
    main(sys.argv[1])

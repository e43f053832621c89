"""Results and records of items as the installed lm-eval writes them, of an untrained model on eight questions of two tasks.

    python tests/golden/lm_eval/make.py SCRATCH    # once with lm-eval 0.4.13, once with 0.5.0.dev1

The files beside this one are those of the two versions; what tells of a machine (paths, versions, times) is left out of them.
"""

import importlib.metadata
import json
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}

import jax
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from relscale.eval.harness import HarnessModel
from relscale.model.decoder import init_model
from relscale.model.hub import save_hf
from relscale.model.open import open_model
from relscale.plan.spec import ModelSpec
from relscale.text.tokenizer import train_tokenizer

VERSION = importlib.metadata.version("lm_eval")
METRICS = ["acc", "acc_norm", "acc_bytes", "brier_score"]
if not VERSION.startswith("0.4"):
    METRICS += [
        "bpb",
        "logprob",
        "choice_logprob",
        "choice_prob_norm",
        "choice_logprob_norm",
        "exact_match_mc",
    ]
ITEMS = {
    "birds": [
        ("wren", "The wren is a", ["small bird", "moon", "naïve café"], 0),
        ("wren", "A wren sings a", ["song", "hill", "wet café"], 0),
        ("heron", "The heron stands in", ["fourteen", "the water", "cat"], 1),
        ("heron", "A heron eats", ["fish", "sky", "a naïve idea"], 0),
        ("owl", "The owl hunts at", ["noon", "night", "ten"], 1),
    ],
    "rivers": [
        ("burn", "A burn is a", ["hill", "small stream", "wet café"], 1),
        ("burn", "A burn runs", ["down", "up", "blue"], 0),
        ("delta", "A delta lies at the", ["spring", "mouth", "moon"], 1),
    ],
}
HEAD = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
metadata: {{version: 3}}
"""
CHOICE = """
task: toy_{name}
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: gold
metric_list:
"""
TEXT = """
task: toy_text
output_type: loglikelihood_rolling
doc_to_text: ''
doc_to_target: "{{question}} {{choices[gold]}}."
metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]
"""
GROUP = """
group: toy
task: [toy_birds, toy_rivers]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
metadata: {version: 1}
"""


def write_tasks(folder: Path) -> None:
    """Tasks of a few lines, and their items."""
    folder.mkdir(parents=True, exist_ok=True)
    every = [row for rows in ITEMS.values() for row in rows]
    for name, rows in (ITEMS | {"items": every}).items():
        lines = (
            dict(zip(("passage", "question", "choices", "gold"), row, strict=True)) for row in rows
        )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if name == "items":
            continue
        listed = "".join(f"  - metric: {metric}\n" for metric in METRICS)
        head = HEAD.format(items=folder / f"{name}.jsonl") + CHOICE.format(name=name)
        (folder / f"toy_{name}.yaml").write_text(head + listed)
    (folder / "toy_text.yaml").write_text(HEAD.format(items=folder / "items.jsonl") + TEXT)
    (folder / "toy.yaml").write_text(GROUP)


def main(scratch: Path) -> None:
    write_tasks(scratch / "tasks")
    if not (scratch / "toy").exists():
        texts = [f"{row[1]} naïve café." for rows in ITEMS.values() for row in rows] * 9
        model = init_model(ModelSpec(32, 2, 2, 1, 16, 64, vocab=296), key=jax.random.key(3))
        tokenizer = train_tokenizer(texts, 290)
        save_hf(model, scratch / "toy", tokenizer=tokenizer, max_positions=64)
    tracker = EvaluationTracker(output_path=str(scratch / "results"))
    results = simple_evaluate(
        HarnessModel(open_model(scratch / "toy")), tasks=["toy", "toy_text"], bootstrap_iters=100,
        task_manager=TaskManager(include_path=str(scratch / "tasks"), include_defaults=False),
        log_samples=True, evaluation_tracker=tracker,
    )  # fmt: skip
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)


def keep(scratch: Path, place: Path) -> None:
    """The written files without what tells of a machine, and under one date."""
    place.mkdir(exist_ok=True)
    (file,) = (scratch / "results").rglob("results_*.json")
    date = file.stem.partition("_")[2]
    data = json.loads(file.read_text())
    for key in (
        "pretty_env_info",
        "configs",
        "date",
        "git_hash",
        "upper_git_hash",
        "transformers_version",
    ):
        data.pop(key, None)
    data |= {
        "model_name": "toy",
        "model_name_sanitized": "toy",
        "total_evaluation_time_seconds": "1",
    }
    data["config"] = {"model": "HarnessModel", "model_args": {"path": "toy"}}
    (place / "results_2026-11-27.json").write_text(json.dumps(data, indent=1) + "\n")
    for own in file.parent.glob("samples_*.jsonl"):
        (place / own.name.replace(date, "2026-11-27")).write_text(own.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
    keep(Path(sys.argv[1]).absolute(), Path(__file__).parent / VERSION)

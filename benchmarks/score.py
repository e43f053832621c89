"""Scoring against lm-evaluation-harness: 5-shot MMLU items per second through its `hf` backend and through `relscale.eval.likelihoods`.

The two sides get the same weights, saved by `save_hf`, the same tokenizer and the same requests, one
subject after the other, in turns, on all cores of the machine. Each side is a process of its own. The
harness runs with the batch size that is quickest for it on a few items; this engine has gone over
everything once before, and that first pass, compilation included, has a column of its own. Weights are
random: no time depends on them.

    python benchmarks/score.py --torch-python venv/bin/python --csv data/speed/score.csv

The interpreter of --torch-python has torch, transformers and lm-eval. Largest differences of
log-likelihoods are printed with the rates: a rate of wrong numbers is worth nothing. The large shape takes
the harness long: give it a run of its own, `--shapes 512/8 --rounds 1`; rows join those of the table.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {  # hidden, layers, vocab
    "128/4": (128, 4, 4096),
    "256/6": (256, 6, 8192),
    "512/8": (512, 8, 32768),
}
WINDOW = 2048
SUBJECTS = (
    "abstract_algebra", "astronomy", "philosophy", "world_religions", "sociology", "high_school_geography",
    "marketing", "nutrition",
)  # fmt: skip
FORMATS = ("mcq", "modified-mcq", "continuation")
SIDES = ("relscale", "hf")
ITEMS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mmlu"


def start_relscale(folder: str, window: int):
    """A function of requests and batch size that returns log-likelihoods and seconds by part.

    A request is a pair of context and continuation, or one whole text.
    """
    from relscale.eval.likelihoods import log_likelihoods
    from relscale.eval.requests import Request
    from relscale.eval.windows import rolling_log_likelihoods
    from relscale.model.open import open_model

    opened = open_model(folder, window=window)

    def score(requests: list, _batch) -> tuple[list[float], dict]:
        if len(requests[0]) == 1:
            whole = rolling_log_likelihoods(opened, [text for (text,) in requests])
            return [each.log_likelihood for each in whole], {}
        found = log_likelihoods(opened, [Request(*pair) for pair in requests])
        return [each.log_likelihood for each in found], {}

    return score


def start_hf(folder: str, window: int):
    """The same through the harness; its forward passes are timed on their own."""
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    lm = HFLM(pretrained=folder, backend="causal", device="cpu", dtype="float32", max_length=window)
    forward_s, call = 0.0, lm._model_call

    def timed(*given, **named):
        nonlocal forward_s
        start = time.perf_counter()
        answer = call(*given, **named)
        forward_s += time.perf_counter() - start
        return answer

    lm._model_call = timed

    def score(requests: list, batch) -> tuple[list[float], dict]:
        nonlocal forward_s
        lm.batch_size_per_gpu, forward_s = batch, 0.0
        kind = "loglikelihood" if len(requests[0]) == 2 else "loglikelihood_rolling"
        asked = [Instance(kind, {}, tuple(pair), i) for i, pair in enumerate(requests)]
        if kind == "loglikelihood_rolling":
            values = lm.loglikelihood_rolling(asked, disable_tqdm=True)
            return [v[0] if isinstance(v, tuple) else v for v in values], {}  # since 0.5 in a pair
        answers = lm.loglikelihood(asked, disable_tqdm=True)
        return [value for value, _ in answers], {"forward_s": forward_s}

    return score


def peak_mib() -> int:
    """Most memory that this process has held. Not `ru_maxrss`, which begins with that of the process that started it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024)


def serve(options: argparse.Namespace) -> None:
    """Answer each line of requests with a line of log-likelihoods and seconds, until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    score = {"relscale": start_relscale, "hf": start_hf}[options.worker](
        options.folder, options.window
    )
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        begin = time.perf_counter()
        values, parts = score(asked["requests"], asked["batch"])
        parts["seconds"] = time.perf_counter() - begin
        parts["peak_mib"] = peak_mib()
        print(json.dumps({"log_likelihoods": values} | parts), file=answers, flush=True)


class Worker:
    """One side in a process of its own."""

    def __init__(self, side: str, folder: Path, options: argparse.Namespace):
        python = options.torch_python if side == "hf" else sys.executable
        self.process = subprocess.Popen(
            [
                python,
                __file__,
                "--worker",
                side,
                "--folder",
                str(folder),
                "--window",
                str(options.window),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if options.verbose else subprocess.DEVNULL,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
        )
        self.answer()

    def answer(self) -> dict:
        """The next line of the worker."""
        if line := self.process.stdout.readline():
            return json.loads(line)
        sys.exit("benchmark: a worker ended early; --verbose shows what it said")

    def ask(self, requests: list, batch: int | str = 1) -> dict:
        """Log-likelihoods of requests, with the seconds that they took."""
        self.process.stdin.write(json.dumps({"requests": requests, "batch": batch}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def ask_for(items, format: str) -> dict[str, list]:
    """Requests of each subject, as pairs of context and continuation."""
    from relscale.eval.prompts import requests_of
    from relscale.eval.tasks import get_task

    task = get_task(f"mmlu-{format}")
    return {
        subject: [
            list(pair)
            for item in rows
            for pair in requests_of(
                item, items.shots[subject], format, description=task.description
            )
        ]
        for subject, rows in items.items.items()
    }


def count_work(folder: Path, requests: dict[str, list]) -> dict:
    """Tokens and FLOPs that each side computes, and the seconds of turning texts into tokens, of all subjects.

    The harness reads each different text once, head and all; an item's letters are one text.
    """
    from relscale.eval.inspection import scoring_work
    from relscale.eval.requests import Request
    from relscale.model.open import open_model

    opened = open_model(folder)
    works = [scoring_work(opened, [Request(*p) for p in pairs]) for pairs in requests.values()]
    texts = [part for pairs in requests.values() for a, b in pairs for part in (a + b, a)]
    start = time.perf_counter()
    opened.tokenizer.encode_batch(texts)
    tokenizing_s = time.perf_counter() - start
    counted = {"tokenizing_s": round(tokenizing_s, 2)}
    for side, way in (("hf", "different texts"), ("relscale", "calls, padded")):
        counted[f"{side}_tokens"] = sum(w.tokens[way] for w in works)
        counted[f"{side}_gflop"] = round(sum(w.flops[way] for w in works) / 1e9, 1)
    return counted


def best_batch(worker: Worker, requests: list, vocab: int) -> int | str:
    """The batch size that is quickest for the harness, on a few items; "auto" where its trial fits into memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    few, seconds = requests[: 4 * 6], {}
    worker.ask(few[:8], 1)
    for batch in (1, 4, 8, 16):
        seconds[batch] = worker.ask(few, batch)["seconds"]
    if 64 * WINDOW * vocab * 4 * 3 < memory / 2:  # logits of its first trial, and their softmax
        start = time.perf_counter()
        worker.ask(few, "auto")  # finds a size, which is no part of the scoring
        if time.perf_counter() - start < 60:
            seconds["auto"] = worker.ask(few, "auto")["seconds"]
    return min(seconds, key=seconds.get)


def measure(name: str, format: str, folder: Path, items, options) -> dict:
    """One row: both sides on one model and one format, in turns."""
    requests = ask_for(items, format)
    workers = {side: Worker(side, folder, options) for side in SIDES}
    batch = best_batch(workers["hf"], requests[SUBJECTS[0]], SHAPES[name][2])
    first_s = sum(workers["relscale"].ask(pairs)["seconds"] for pairs in requests.values())
    seconds = {side: [] for side in SIDES}
    ratios, apart, forward_s = [], 0.0, []
    for turn in range(options.rounds):
        spent = dict.fromkeys(SIDES, 0.0)
        forward_s.append(0.0)
        for pairs in requests.values():
            answers = {
                side: workers[side].ask(pairs, batch)
                for side in (SIDES if turn % 2 else SIDES[::-1])
            }
            for side in SIDES:
                spent[side] += answers[side]["seconds"]
            forward_s[-1] += answers["hf"]["forward_s"]
            ratios.append(answers["hf"]["seconds"] / answers["relscale"]["seconds"])
            both = zip(*(answers[side]["log_likelihoods"] for side in SIDES), strict=True)
            apart = max(apart, *(abs(a - b) for a, b in both))
        for side in SIDES:
            seconds[side].append(spent[side])
    for worker in workers.values():
        worker.close()
    middle = {side: statistics.median(values) for side, values in seconds.items()}
    hidden, layers, vocab = SHAPES[name]
    return {
        "shape": name,
        "hidden": hidden,
        "layers": layers,
        "vocab": vocab,
        "window": WINDOW,
        "format": format,
        "shots": 5,
        "items": len(items),
        "subjects": len(requests),
        "requests": sum(map(len, requests.values())),
        "rounds": options.rounds,
        "hf_batch_size": batch,
        "relscale_items_per_s": round(len(items) / middle["relscale"], 2),
        "hf_items_per_s": round(len(items) / middle["hf"], 3),
        "ratio": round(middle["hf"] / middle["relscale"], 1),
        "ratio_low": round(min(ratios), 1),
        "ratio_high": round(max(ratios), 1),
        "relscale_first_items_per_s": round(len(items) / first_s, 2),
        "relscale_s": round(middle["relscale"], 2),
        "hf_s": round(middle["hf"], 2),
        "hf_forward_s": round(statistics.median(forward_s), 2),
        **count_work(folder, requests),
        "max_difference_nats": float(f"{apart:.2g}"),
        "load_average": round(os.getloadavg()[0], 2),
    }


def make_models(names: list[str], folder: Path) -> dict[str, Path]:
    """A folder with random weights for each shape, its tokenizer learnt from the embedded text."""
    import jax

    from relscale.model.decoder import init_model
    from relscale.model.hub import save_hf
    from relscale.plan.spec import ModelSpec
    from relscale.text.corpora import prepare_corpora
    from relscale.text.tokenizer import train_tokenizer

    texts = list(prepare_corpora().train_texts())
    made, tokenizers = {}, {}
    for name in names:
        hidden, layers, vocab = SHAPES[name]
        if vocab not in tokenizers:
            tokenizers[vocab] = train_tokenizer(texts, vocab)
        heads = hidden // 64
        spec = ModelSpec(hidden, layers, heads, heads, 64, 4 * hidden, vocab, rope_scaling=None)
        model = init_model(spec, key=jax.random.key(0))
        made[name] = save_hf(
            model,
            folder / name.replace("/", "-"),
            tokenizer=tokenizers[vocab],
            max_positions=WINDOW,
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--torch-python",
        default=sys.executable,
        help="interpreter with torch, transformers, lm-eval",
    )
    parser.add_argument("--items", type=Path, default=ITEMS, help="folder with MMLU's dev and test")
    parser.add_argument("--per-subject", type=int, default=25, help="items of each of 8 subjects")
    parser.add_argument("--shapes", default="128/4,256/6", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--formats", default="mcq,modified-mcq", help=", ".join(FORMATS))
    parser.add_argument("--rounds", type=int, default=3, help="passes of each side over all items")
    parser.add_argument("--csv", type=Path, help="write the rows here")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries say")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--window", type=int, default=WINDOW, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return serve(options)

    probe = (
        "import importlib.metadata as m; import torch, lm_eval.models.huggingface; "
        "print(torch.__version__, m.version('transformers'), m.version('lm-eval'))"
    )
    found = subprocess.run([options.torch_python, "-c", probe], capture_output=True, text=True)
    if found.returncode:
        sys.exit(
            f"benchmark: {options.torch_python} lacks torch, transformers, accelerate or lm-eval: name one that has them with "
            "--torch-python, or python -m venv torch-venv && torch-venv/bin/pip install torch transformers accelerate lm-eval"
        )
    if not options.items.is_dir():
        sys.exit(f"benchmark: no folder {options.items}: name one with MMLU's csv files by --items")
    import jax

    from relscale.eval.data_sets import load_items

    items = load_items(
        "mmlu", options.items, groups=SUBJECTS, num_shots=5, limit=options.per_subject
    )
    versions = found.stdout.split()
    cores = len(os.sched_getaffinity(0))
    print(
        f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.2f}; jax {jax.__version__}, torch {versions[0]}, "
        f"transformers {versions[1]}, lm-eval {versions[2]}; {len(items)} items of {len(SUBJECTS)} subjects, 5 shots"
    )
    print(
        f"{'shape':>6} {'format':>12} {'relscale':>14} {'hf':>13} {'ratio':>6} {'(by subject)':>16} {'first pass':>14}"
        f" {'tokens, hf':>10} {'relscale':>9} {'batch':>5} {'hf forward':>10} {'tokenizing':>10} {'difference':>10} {'load':>5}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        made = make_models(options.shapes.split(","), Path(scratch))
        for name in options.shapes.split(","):
            for format in options.formats.split(","):
                row = measure(name, format, made[name], items, options)
                if options.csv:  # after each row, so that an early end loses no row
                    _write(options.csv, row)
                print(
                    f"{name:>6} {format:>12} {row['relscale_items_per_s']:>6} items/s {row['hf_items_per_s']:>5.2f} items/s"
                    f" {row['ratio']:>6} ({row['ratio_low']:>5} to {row['ratio_high']:>5})"
                    f" {row['relscale_first_items_per_s']:>6} items/s {row['hf_tokens']:>10} {row['relscale_tokens']:>9}"
                    f" {row['hf_batch_size']:>5} {row['hf_forward_s']:>8} s {row['tokenizing_s']:>8} s"
                    f" {row['max_difference_nats']:>10.1e} {row['load_average']:>5}",
                    flush=True,
                )


def _write(path: Path, row: dict) -> None:
    """Put a row into the table, in place of an older one of the same shape and format."""
    rows = []
    if path.exists():
        with open(path, newline="") as file:
            rows = [r for r in csv.DictReader(file) if list(r) == list(row)]
    rows = [r for r in rows if (r["shape"], r["format"]) != (row["shape"], row["format"])] + [row]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    if "--worker" not in sys.argv:
        print(f"took {time.perf_counter() - start:.0f} s")

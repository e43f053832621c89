"""Training against PyTorch: tokens per second of `relscale.model.training.train_step` and of Hugging Face's Qwen3, eager or compiled.

Each side is a process of its own that compiles, warms up and then trains for a slice of time whenever
it is asked, so the two alternate within one run, on the same cores, shapes and environment. The last
part runs two pinned single-threaded processes of each side, as a sweep does.

    python benchmarks/train.py --torch-python venv/bin/python --csv data/speed/train.csv

PyTorch's side is the usual loop: forward in float32 with its own attention kernel, cross-entropy,
backward, clipping of the global norm at 1, AdamW in one fused kernel (`--plain-adamw`: the default
loop over tensors). Ours is C-AdamC, whose mask makes a second pass over the update. `--anchors eager,compiled` puts the
same loop beside ours twice, as it stands and through `torch.compile`, which needs a C++ compiler.

Other work on the machine moves wall times, and threads that wait for each other most of all: trust rows
whose `load_average` is about that of the benchmark alone (2), and under load the processor time of a
step in the rows of the sweep, `*_cpu_ms_per_step`.
"""

import argparse
import csv
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHAPES = {  # hidden, layers, vocab, tokens of a sequence, sequences of a batch
    "64/2": (64, 2, 256, 128, 8),
    "128/4": (128, 4, 1024, 256, 8),
    "256/6": (256, 6, 4096, 256, 8),
    "512/8": (512, 8, 4096, 512, 4),
}
SIDES = ("relscale", "torch")
GEMM = 1024  # rows of the square product that stands for the machine's limit


def start_relscale(shape: tuple[int, ...], head_dim: int, threads: int):
    """A training step and a square product in JAX, as functions that return when the work is done."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from relscale.model.decoder import init_model
    from relscale.model.optim import hyper_of, init_state
    from relscale.model.training import TrainState, train_step
    from relscale.plan.flops import forward_flops_per_token
    from relscale.plan.spec import ModelSpec, OptimSpec

    hidden, layers, vocab, seq, batch = shape
    heads = max(1, hidden // head_dim)
    spec = ModelSpec(hidden, layers, heads, heads, head_dim, 4 * hidden, vocab)
    model = init_model(spec, key=jax.random.key(0))
    state, hyper = TrainState(model, init_state(model)), hyper_of(OptimSpec(1e-3), 10_000)
    tokens = np.random.default_rng(0).integers(0, vocab, (batch, seq + 1)).astype(np.int32)

    def step() -> float:
        nonlocal state
        state, metrics = train_step(state, tokens, hyper)
        return float(metrics.loss)

    square = jax.random.normal(jax.random.key(1), (GEMM, GEMM))
    product = jax.jit(jnp.matmul)
    flops = 3 * batch * seq * forward_flops_per_token(spec, seq)["total"]
    return step, lambda: product(square, square).block_until_ready(), flops


def start_torch(shape: tuple[int, ...], head_dim: int, threads: int, fused: bool, compiled: bool):
    """The same in PyTorch, with the model of `transformers`, as it stands or through `torch.compile`."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden, layers, vocab, seq, batch = shape
    heads = max(1, hidden // head_dim)
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        intermediate_size=4 * hidden,
        max_position_embeddings=seq,
        tie_word_embeddings=False,
        use_cache=False,
    )
    model = Qwen3ForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused or None)
    tokens = torch.randint(vocab, (batch, seq + 1))

    def loss_of(tokens):
        logits = model(input_ids=tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    forward = torch.compile(loss_of) if compiled else loss_of

    def step() -> float:
        loss = forward(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    square = torch.randn(GEMM, GEMM)
    return step, lambda: square @ square, None


def serve(options: argparse.Namespace) -> None:
    """Answer `step SECONDS` and `gemm SECONDS` with a line of JSON each, until the input ends."""
    shape = tuple(map(int, options.shape.split(",")))
    if options.worker == "relscale":
        step, product, flops = start_relscale(shape, options.head_dim, options.threads)
    else:
        fused = not options.plain_adamw
        step, product, flops = start_torch(
            shape, options.head_dim, options.threads, fused, options.compile
        )
    first = step()
    for _ in range(2):
        step(), product()
    print(json.dumps({"ready": True, "flops": flops, "first_loss": first}), flush=True)
    for line in sys.stdin:
        what, seconds = line.split()
        work, count = {"step": step, "gemm": product}[what], 0
        faults = _faults()
        begin, cpu = time.perf_counter(), time.process_time()
        while (spent := time.perf_counter() - begin) < float(seconds) or count == 0:
            work()
            count += 1
        answer = {
            "per_s": count / spent,
            "cpu_s": (time.process_time() - cpu) / count,
            "faults": (_faults() - faults) / count,
        }
        print(json.dumps(answer), flush=True)


def _faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


class Worker:
    """One side in a process of its own, pinned to its cores."""

    def __init__(self, side: str, shape: tuple[int, ...], cores: list[int], anchor: str, options):
        environment = os.environ | options.environment
        threads = len(cores)
        flags = environment["XLA_FLAGS"].split()
        if threads > 1:
            flags = [f for f in flags if "multi_thread_eigen" not in f]
        environment |= {"XLA_FLAGS": " ".join(flags), "OMP_NUM_THREADS": str(threads)}
        python = options.torch_python if side == "torch" else sys.executable
        pinned = ["taskset", "-c", ",".join(map(str, cores))]
        self.process = subprocess.Popen(
            [
                *pinned,
                python,
                __file__,
                *("--worker", side, "--shape", ",".join(map(str, shape))),
                *("--threads", str(threads), "--head-dim", str(min(options.head_dim, shape[0]))),
                *(["--plain-adamw"] if options.plain_adamw else []),
                *(["--compile"] if anchor == "compiled" else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def answer(self) -> dict:
        """The next line of the worker."""
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"benchmark: a worker ended early: {' '.join(map(str, self.process.args))}")
        return json.loads(line)

    def ask(self, what: str, seconds: float) -> None:
        """Start one slice of work."""
        self.process.stdin.write(f"{what} {seconds}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def processor_name() -> str:
    """The processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measure(name: str, way: str, cores: list[list[int]], anchor: str, options) -> dict:
    """One row: both sides on one shape, alternating, one process for each entry of `cores`."""
    shape = SHAPES[name]
    workers = {side: [Worker(side, shape, c, anchor, options) for c in cores] for side in SIDES}
    ready = {side: [w.answer() for w in workers[side]] for side in SIDES}
    rates = {(side, what): [] for side in SIDES for what in ("step", "gemm")}
    faults, cpu = {side: [] for side in SIDES}, {side: [] for side in SIDES}
    for turn in range(options.rounds):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            for what, seconds in (("step", options.seconds), ("gemm", options.seconds / 10)):
                for worker in workers[side]:
                    worker.ask(what, seconds)
                answers = [worker.answer() for worker in workers[side]]
                rates[side, what].append(sum(a["per_s"] for a in answers))
                if what == "step":
                    faults[side].append(statistics.mean(a["faults"] for a in answers))
                    cpu[side].append(statistics.mean(a["cpu_s"] for a in answers))
    for side in SIDES:
        for worker in workers[side]:
            worker.close()
    hidden, layers, vocab, seq, batch = shape
    median = {key: statistics.median(values) for key, values in rates.items()}
    ratios = [
        ours / theirs
        for ours, theirs in zip(rates["relscale", "step"], rates["torch", "step"], strict=True)
    ]
    step_flops = ready["relscale"][0]["flops"]
    row = {
        "shape": name,
        "way": way,
        "anchor": anchor,
        "hidden": hidden,
        "layers": layers,
        "vocab": vocab,
        "seq_len": seq,
        "batch": batch,
        "head_dim": min(options.head_dim, hidden),
        "rounds": options.rounds,
        "relscale_tokens_per_s": round(batch * seq * median["relscale", "step"]),
        "torch_tokens_per_s": round(batch * seq * median["torch", "step"]),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "train_flops_per_step": step_flops,
    }
    for side in SIDES:
        row[f"{side}_gflops"] = round(step_flops * median[side, "step"] / 1e9, 1)
        row[f"{side}_gemm_gflops"] = round(2 * GEMM**3 * median[side, "gemm"] / 1e9, 1)
        row[f"{side}_cpu_ms_per_step"] = round(1e3 * statistics.median(cpu[side]), 2)
        row[f"{side}_faults_per_step"] = round(statistics.median(faults[side]))
    return row | {"load_average": round(os.getloadavg()[0], 2), "processor": processor_name()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="which, by hidden/layers")
    parser.add_argument(
        "--ways", default="threads,sweep", help="one process on all cores, or a sweep"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="slices of each side; medians are shown"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a slice")
    parser.add_argument("--head-dim", type=int, default=64, help="width of a head, at most hidden")
    parser.add_argument("--plain-adamw", action="store_true", help="PyTorch's AdamW by tensors")
    parser.add_argument(
        "--anchors", default="eager", help="PyTorch's loop: eager, compiled or both"
    )
    parser.add_argument("--csv", type=Path, help="write the rows here")
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return serve(options)

    probe = "import torch, transformers; print(torch.__version__, transformers.__version__)"
    found = subprocess.run([options.torch_python, "-c", probe], capture_output=True, text=True)
    if found.returncode:
        sys.exit(
            f"benchmark: {options.torch_python} has no PyTorch with transformers: name one that has "
            "with --torch-python, or python -m venv torch-venv && torch-venv/bin/pip install torch==2.13.0 transformers"
        )
    import jax

    from relscale.sweep.workers import WORKER_ENVIRONMENT

    options.environment = WORKER_ENVIRONMENT
    cores = sorted(os.sched_getaffinity(0))[:2]
    versions = found.stdout.split()
    print(
        f"{processor_name()}, cores {cores}, load {os.getloadavg()[0]:.2f}; jax {jax.__version__}, "
        f"torch {versions[0]}, transformers {versions[1]}; both with {WORKER_ENVIRONMENT['GLIBC_TUNABLES']}"
    )
    print(
        f"{'shape':>6} {'way':>8} {'anchor':>8} {'relscale':>12} {'torch':>12} {'ratio':>6} {'(range)':>13}"
        f" {'GFLOP/s':>15} {'GEMM limit':>15} {'faults/step':>15} {'load':>5}"
    )
    rows = []
    ways = {"threads": [cores], "sweep": [[core] for core in cores]}
    for way, anchor, name in itertools.product(
        options.ways.split(","), options.anchors.split(","), options.shapes.split(",")
    ):
        row = measure(name, way, ways[way], anchor, options)
        rows.append(row)
        if options.csv:  # after each row, so that an early end loses no row
            _write(options.csv, rows)
        pair = [
            f"{row[f'relscale_{what}']:>7} {row[f'torch_{what}']:>7}"
            for what in ("gflops", "gemm_gflops", "faults_per_step")
        ]
        print(
            f"{name:>6} {way:>8} {anchor:>8} {row['relscale_tokens_per_s']:>8} t/s {row['torch_tokens_per_s']:>8} t/s"
            f" {row['ratio']:>6.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
            f" {' '.join(pair)} {row['load_average']:>5}",
            flush=True,
        )


def _write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    if "--worker" not in sys.argv:
        print(f"took {time.perf_counter() - start:.0f} s")

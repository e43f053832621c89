"""A training that costs nothing and behaves like one: rows, checkpoints, a model, all from its seed alone.

As a program it is a driver: `sweep_toys.py STORE NUM_RUNS WORKERS [name=value ...]` sweeps toy runs and writes
the tables. What it trains is noted in the file that `TOY_LOG` names, so that a test can count it.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time

from relscale.core import Preempted, RunFailed
from relscale.plan.recipes import SMALL, Plan, plan_run, save_plan
from relscale.sweep.driver import RetryPolicy, sweep
from relscale.sweep.jobs import Job, make_tables, put_tables
from relscale.sweep.leases import LeaseRule
from relscale.sweep.store import connect
from relscale.sweep.workers import ending

ROW = 20


def note(what: str) -> None:
    if path := os.environ.get("TOY_LOG"):
        with open(path, "a") as file:
            file.write(what + "\n")


def toy_train(attempt):
    """Hash a state from step to step, with a row and a checkpoint at every 20th."""
    run, folder = attempt.run, attempt.folder
    if (folder / "model").exists():
        return (folder / "model" / "state").read_text(), summary(folder)
    found = sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit())
    step, state = 0, f"{run.seed}"
    for step in reversed(found):
        state, check = (folder / "checkpoints" / str(step) / "state").read_text().split("\n")
        if check == hashlib.sha256(state.encode()).hexdigest():
            break
        shutil.rmtree(folder / "checkpoints" / str(step))
        step, state = 0, f"{run.seed}"
    path, data = folder / "metrics.jsonl", attempt.batches(range(run.num_steps))
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
    rows = [row for row in rows if row["step"] <= step]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    note(f"begin {run.run_id} {step}")
    if "killer" in run.run_id:
        time.sleep(0.1)
        os.kill(os.getpid(), 9)
    if "hungry" in run.run_id:
        raise MemoryError("no room for the activations")
    if "clumsy" in run.run_id:
        raise ZeroDivisionError("a defect")
    with open(path, "a") as log:
        while step < run.num_steps:
            state = hashlib.sha256(f"{state} {data[step]}".encode()).hexdigest()
            step += 1
            if step % ROW:
                continue
            time.sleep(float(os.environ.get("TOY_ROW_S", "0.02")))
            if "wild" in run.run_id and step > run.num_steps / 2:
                raise RunFailed(f"run {run.run_id}: the loss is not finite")
            row = {"step": step, "num_steps": ROW, "loss_nats": int(state[:8], 16) / 2**32}
            log.write(json.dumps(row) + "\n")
            log.flush()
            attempt.on_row(row)
            scratch = folder / "checkpoints" / f"{step}.tmp"
            scratch.mkdir(parents=True, exist_ok=True)
            (scratch / "state").write_text(f"{state}\n{hashlib.sha256(state.encode()).hexdigest()}")
            scratch.rename(folder / "checkpoints" / str(step))
            for old in range(ROW, step - ROW, ROW):
                shutil.rmtree(folder / "checkpoints" / str(old), ignore_errors=True)
            if ending():
                raise Preempted(f"run {run.run_id}: ended at step {step}")
    scratch = folder / "model.tmp"
    scratch.mkdir(exist_ok=True)
    (scratch / "state").write_text(state)
    scratch.rename(folder / "model")
    note(f"finish {run.run_id}")
    shutil.rmtree(folder / "checkpoints")
    return state, summary(folder)


def summary(folder) -> dict:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {"train_loss_nats": sum(json.loads(line)["loss_nats"] for line in lines) / len(lines)}


def toy_evaluate(attempt, state, task) -> list[dict]:
    note(f"evaluate {attempt.run.run_id} {task}")
    value = 1 + int(hashlib.sha256(f"{state} {task}".encode()).hexdigest()[:8], 16) / 2**32
    row = {"task": task, "metric": "bits_per_byte", "value": value, "stderr": 0.1, "n": 10}
    return [row | {"group": g, "higher_is_better": False, "task_version": "1"} for g in "ab"]


def toy_runs(num_runs: int, *names: str, steps: int = 400):
    """Runs of distinct lengths; names are those of runs that misbehave."""
    base = plan_run(1e12, 64, SMALL)
    names = [*(f"run-{i}" for i in range(num_runs)), *names]
    return tuple(
        dataclasses.replace(base, run_id=name, seed=i, num_steps=steps + ROW * (i % 5))
        for i, name in enumerate(names)
    )


def toy_job(where, tasks=("toy",), lease=LeaseRule(0.2, 2.0)) -> Job:
    return Job(
        str(where), toy_train, toy_evaluate, {"text": "v1"}, dict.fromkeys(tasks, "1"), lease
    )


def toy_sweep(where, runs, *, tasks=("toy",), workers=2, retries=RetryPolicy(), say=print):
    store = connect(where)
    plan = Plan(SMALL, (1e12,), tuple(runs))
    store.write("plan.json", save_plan(plan).encode())
    result = sweep(runs, toy_job(where, tasks), num_workers=workers, retries=retries, say=say)
    tables = zip(
        ("runs", "scores"), make_tables(plan.to_frame(), result.results, result.failed), strict=True
    )
    notes = put_tables(store, dict(tables))
    return result, [*result.notes, *notes]


if __name__ == "__main__":
    where, num_runs, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    result, notes = toy_sweep(where, toy_runs(num_runs), workers=workers, retries=RetryPolicy(50))
    print(json.dumps({"failed": result.failed, "notes": notes}))

"""`relscale sweep` and `relscale status` as a user runs them, on real trainings of seconds."""

import dataclasses
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from test_sweep import TABLES, tables, workers_of

from relscale.plan.recipes import SMALL, plan_isoflop, save_plan
from relscale.plan.spec import RunSpec, from_json

PROGRAM = Path(sys.executable).with_name("relscale")
TEXT = ["--domains", "code", "bible", "--train-bytes", "150000", "--heldout-bytes", "6000"]
FAST = ["--checkpoint-s", "0.5", "--beat-s", "0.5", "--dead-after-s", "5", "--lost-retries", "20"]


def command(*arguments) -> list[str]:
    code = "import sys; from relscale.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, *map(str, arguments)]


def relscale(*arguments, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, **kwargs)


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    """Six runs of two shapes, with 10 and 20 thousand parameters."""
    recipe = dataclasses.replace(SMALL, vocab=320, seq_len=32, max_sizes=2)
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(save_plan(plan_isoflop((8e9,), recipe, seeds=(0, 1, 2))))
    return path


@pytest.fixture(scope="module")
def quiet(plan, tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("quiet") / "store"
    board = ["--tensorboard"] if importlib.util.find_spec("tensorboardX") else []
    done = relscale("sweep", plan, "--store", where, *TEXT, *FAST, *board)
    assert done.returncode == 0, done.stderr
    assert "core time" in done.stdout and "6/6 runs" in done.stderr
    return where


def test_it_leaves_tables_and_runs_that_can_be_opened(quiet):
    runs, scores = (pd.read_parquet(quiet / name) for name in TABLES)
    assert (runs["status"] == "finished").all() and len(runs) == 6
    assert set(scores["group"]) == {"code", "bible"} and len(scores) == 12
    assert scores["value"].between(1, 6).all()  # a byte model that knows nothing needs 8 bits
    for run_id in runs["run_id"]:
        run = from_json(RunSpec, (quiet / "runs" / run_id / "run.json").read_text())
        assert run.run_id == run_id and (quiet / "runs" / run_id / "model").is_dir()
        assert dict(run.mixture) == {"code": 0.5, "bible": 0.5}


def test_workers_log_to_tensorboard(quiet):
    """The flag reaches the workers: each run's curve is its own log, point by point."""
    pytest.importorskip("tensorboardX", reason="writes the files: extra `tensorboard`")
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs `tensorboard`"
    )
    for folder in (quiet / "runs").iterdir():
        events = reader.EventAccumulator(str(quiet / "tensorboard" / folder.name)).Reload()
        seen = {event.step: event.value for event in events.Scalars("train/loss_nats")}
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert seen == pytest.approx({row["step"]: row["loss_nats"] for row in rows}, rel=1e-6)


@pytest.mark.long
def test_five_kills_of_real_trainings_change_nothing(quiet, plan, tmp_path):
    """Workers and drivers are killed by -9; the tables are those of the quiet sweep, bit for bit."""
    where, rng, kills = tmp_path / "store", random.Random(1), []
    # the text is the same, and the compiled programs: what is tried here is training
    subprocess.run(["cp", "-r", quiet, where], check=True)
    subprocess.run(["rm", "-r", where / "runs", *(where / name for name in TABLES)], check=True)
    line = command("sweep", plan, "--store", where, *TEXT, *FAST)
    while len(kills) < 5 or not (where / "runs.parquet").exists():
        driver = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while driver.poll() is None:
            time.sleep(rng.uniform(2, 4))
            victims = [
                pid for pid in workers_of(driver.pid) if list(where.glob("runs/*/metrics.jsonl"))
            ]
            if len(kills) < 5 and victims:
                kills.append("driver" if len(kills) == 2 else "worker")
                os.kill(
                    driver.pid if kills[-1] == "driver" else rng.choice(victims), signal.SIGKILL
                )
        assert driver.wait() in (0, -9), driver.stderr.read()
    assert kills == ["worker", "worker", "driver", "worker", "worker"]
    assert tables(where) == tables(quiet)


def test_status_is_a_table_and_a_page(quiet, tmp_path):
    page = tmp_path / "status.html"
    done = relscale("status", "--store", quiet, "--html", page, "--price", "3600")
    assert done.returncode == 0, done.stderr
    seconds = [json.loads(p.read_text())["wall_s"] for p in quiet.glob("runs/*/timing.json")]
    assert f"cost so far {sum(seconds):,.2f} at 3600 a device and hour" in done.stdout
    assert "6 runs: 6 finished" in done.stdout and "(100%)" in done.stdout
    text = page.read_text()
    assert "6 runs: 6 finished" in text and "http" not in text and "<script" not in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["status", "--store", "STORE"], "no plan.json: not the store of a sweep"),
        (["sweep", "PLAN", "--store", "STORE", "--domains", "poems"], "poems"),
        (
            ["sweep", "PLAN", "--store", "STORE", "--tasks", "chess"],
            "no task 'chess': use",
        ),
        (["sweep", "PLAN", "--store", "STORE", "--workers", "0"], "--workers 0"),
        (["sweep", "PLAN", "--store", "STORE", "--on", "slurm"], "no sbatch and srun here"),
        (["sweep", "PLAN", "--store", "ftp://x/y"], "give a folder, or s3://bucket/name"),
        (["sweep", "PLAN", "--store", "STORE", "--dead-after-s", "2"], "dead_after_s must be"),
        (["sweep", "STORE", "--store", "STORE"], "no such file; make a plan by relscale plan"),
        (["sweep", "PLAN"], "sweep: give --store STR"),
        (["sweep", "PLAN", "--stor", "STORE"], "no option --stor, did you mean --store?"),
        (["sweep", __file__, "--store", "STORE"], "not valid JSON"),
    ],
)
def test_a_slip_is_one_line(arguments, says, plan, tmp_path):
    names = {"PLAN": plan, "STORE": tmp_path / "store"}
    done = relscale(*(names.get(a, a) for a in arguments))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert says in done.stderr.splitlines()[-1] and "relscale: " in done.stderr.splitlines()[-1]


def test_another_plan_or_text_is_refused_and_harms_nothing(quiet, plan, tmp_path):
    before = tables(quiet)
    other = tmp_path / "plan.json"
    other.write_text(plan.read_text().replace('"weight_decay": 0.1', '"weight_decay": 0.2'))
    done = relscale("sweep", other, "--store", quiet, *TEXT)
    assert done.returncode == 2 and "holds another run" in done.stderr
    done = relscale("sweep", plan, "--store", quiet, "--domains", "code", "docs")
    assert done.returncode == 2 and "--domains code bible" in done.stderr
    assert tables(quiet) == before

"""The main job as a user runs it: end to end, cut off and resumed, and given what it cannot use."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from relscale.core import UserError
from relscale.plan.recipes import SMALL, plan_run
from relscale.study import StudyConfig, check_folder, read_config
from relscale.sweep.attempts import execute
from relscale.sweep.jobs import Job

PROGRAM = Path(sys.executable).with_name("relscale")
TABLES = ("runs.parquet", "scores.parquet", "laws.csv")
# Three budgets of three or four models with 10 to 60 thousand parameters: seconds, not minutes.
SMALL_STUDY = [
    "--domains", "code", "bible", "--budgets", "4e9", "8e9", "1.6e10", "--vocab", "320", "--seq-len", "32",
    "--min-sizes", "3", "--train-bytes", "150000", "--heldout-bytes", "6000",
]  # fmt: skip


def relscale(*arguments, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, **kwargs)


def start(out: Path) -> subprocess.Popen:
    """A study in a process group of its own, as a shell would start it."""
    command = [PROGRAM, "study", "--out", out, *SMALL_STUDY]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_results(out: Path, number: int, process: subprocess.Popen) -> dict[str, float]:
    """Wait until so many runs have results; their times of writing by run id."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        found = {p.parent.name: p.stat().st_mtime for p in out.glob("runs/*/result.json")}
        if len(found) >= number:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {number} results in time: {process.stderr.read()[-2000:]}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A small study that nobody disturbed."""
    out = tmp_path_factory.mktemp("study") / "alone"
    done = relscale("study", "--out", out, *SMALL_STUDY)
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout and "code" in done.stdout
    return out


def test_it_leaves_tables_that_hold_together(finished):
    runs, scores = (pd.read_parquet(finished / name) for name in TABLES[:2])
    laws = pd.read_csv(finished / "laws.csv")
    assert (runs["status"] == "finished").all() and runs["budget_flops"].nunique() == 3
    assert (
        runs["train_flops"] / runs["budget_flops"] - 1
    ).abs().max() < 0.01  # the recipe's tolerance
    assert len(scores) == 2 * len(runs) and scores["n"].ge(2).all() and scores["stderr"].gt(0).all()
    assert set(laws["group"]) == {"code", "bible"}
    # A byte model that knows nothing needs 8 bits; these have learnt, and none can be near zero.
    assert scores["value"].between(1, 6).all()
    best = scores.merge(runs, on="run_id").groupby("budget_flops")["value"].min()
    assert best.is_monotonic_decreasing, "more compute does not lower the best error"
    page = (finished / "report.html").read_text()
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "")
    card = json.loads((finished / "corpora.json").read_text())
    assert {row["domain"] for row in card["corpora"]} == {"code", "bible"}


@pytest.mark.long
def test_interrupted_twice_it_ends_with_the_same_tables(finished, tmp_path):
    """Ctrl-C, then kill -9 of the driver alone, then to the end: same bytes, nothing finished is redone."""
    out = tmp_path / "cut"
    first = start(out)
    before = wait_for_results(out, 1, first)
    begun = {p.name for p in (out / "runs").iterdir()}
    os.killpg(first.pid, signal.SIGINT)
    _, stderr = first.communicate(timeout=40)  # a worker saves its run and takes no further one
    assert first.returncode == 130 and "Traceback" not in stderr
    assert "interrupted" in stderr.splitlines()[-1]
    later = {p.name for p in (out / "runs").iterdir()} - begun
    assert len(later) <= 2, "runs were begun after Ctrl-C"
    done = {p.parent.name for p in out.glob("runs/*/result.json")}
    assert list(out.glob("runs/*/checkpoints/[0-9]*")) or done >= begun, (
        "no run under way was saved"
    )

    second = start(out)
    later = wait_for_results(out, len(before) + 2, second)
    os.kill(second.pid, signal.SIGKILL)
    second.communicate(timeout=60)  # returns once the workers, who hold the pipes too, are gone
    assert not (out / "runs.parquet").exists()

    third = relscale("study", "--out", out, *SMALL_STUDY)
    assert third.returncode == 0, third.stderr
    now = {p.parent.name: p.stat().st_mtime for p in out.glob("runs/*/result.json")}
    assert {name: now[name] for name in later} == later, "a finished run was done again"
    for name in TABLES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_second_call_on_a_finished_study_trains_nothing(finished):
    results = {p: p.stat().st_mtime for p in finished.glob("runs/*/result.json")}
    before = {name: (finished / name).read_bytes() for name in TABLES}
    again = relscale("study", "--out", finished, *SMALL_STUDY)
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime for p in results} == results
    assert {name: (finished / name).read_bytes() for name in TABLES} == before


def test_report_is_drawn_again_from_the_tables_alone(finished, tmp_path):
    for name in TABLES[:2]:
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    done = relscale("report", tmp_path, "--baseline", "code")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "laws.csv").read_bytes() == (finished / "laws.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--domains", "code", "poems"], "poems"),
        (["--domains", "code", "EMPTY"], "EMPTY"),
        (["--budgets", "1e5"], "budget 1e+05"),
        (["--baseline", "verse"], "baseline 'verse'"),
        (["--vocab", "10"], "vocab=10"),
        (["--workers", "0"], "--workers 0"),
    ],
)
def test_a_slip_is_one_line_and_a_code(arguments, says, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = [str(empty) if a == "EMPTY" else a for a in arguments]
    done = relscale("study", "--out", tmp_path / "out", *arguments)
    said = [line for line in done.stderr.splitlines() if line.startswith("relscale:")]
    assert done.returncode == 2 and len(said) == 1 and "Traceback" not in done.stderr, done.stderr
    assert (str(empty) if says == "EMPTY" else says) in said[0]
    # The folder is not tied to the slip: the mended call is not refused for it.
    mended = relscale("study", "--out", tmp_path / "out", *SMALL_STUDY, "--dry-run")
    assert mended.returncode == 0
    if (tmp_path / "out").exists():
        check_folder(tmp_path / "out", StudyConfig(seed=99))


def test_a_damaged_folder_is_named(finished, tmp_path):
    for name in ("study.json", "corpora.json"):
        out = tmp_path / name.partition(".")[0]
        subprocess.run(["cp", "-r", finished, out], check=True)
        (out / name).write_bytes(b'{"\xff')
        other = ["--seed", "1"] if name == "study.json" else []  # the same choices mend it
        done = relscale("study", "--out", out, *SMALL_STUDY, *other)
        assert (
            done.returncode == 2
            and done.stderr.count("\n") == 1
            and f"{name}: damaged" in done.stderr
        ), done.stderr
    choices = read_config(finished)
    assert "damaged or gone; written again" in check_folder(tmp_path / "study", choices)[0]
    assert read_config(tmp_path / "study") == choices and not check_folder(
        tmp_path / "study", choices
    )
    (tmp_path / "file").write_text("x")
    done = relscale("study", "--out", tmp_path / "file")
    assert done.returncode == 2 and "is a file" in done.stderr and done.stderr.count("\n") == 1


def test_a_missing_store_stops_the_study_and_is_not_held_against_the_runs(finished, tmp_path):
    out = tmp_path / "holed"
    subprocess.run(["cp", "-r", finished, out], check=True)
    subprocess.run(["rm", "-r", out / "runs", out / "tokens" / "code-heldout"], check=True)
    done = relscale("study", "--out", out, *SMALL_STUDY)
    assert done.returncode == 2 and "code-heldout" in done.stderr and "Traceback" not in done.stderr
    assert not list(out.glob("runs/*/result.json"))


def test_report_keeps_the_choices_of_the_study(finished, tmp_path):
    """Another interval gives other laws, and the page drawn again must hold the same ones."""
    out = tmp_path / "pairs"
    subprocess.run(["cp", "-r", finished, out], check=True)
    assert relscale("study", "--out", out, *SMALL_STUDY, "--interval", "pairs").returncode == 0
    laws = (out / "laws.csv").read_bytes()
    assert laws != (finished / "laws.csv").read_bytes() and read_config(out).interval == "pairs"
    assert relscale("report", out).returncode == 0
    assert (out / "laws.csv").read_bytes() == laws


def leave_and_report(attempt):
    """Go on from what the folder holds, as training does from a checkpoint."""
    mark = attempt.folder / "checkpoint"
    seen = mark.read_text() if mark.exists() else "nothing"
    mark.write_text("made from the first inputs")
    return None, {"seen": seen}


def test_checkpoints_of_other_inputs_are_dropped(tmp_path):
    run = plan_run(1e12, 64, SMALL)
    folder = tmp_path / "runs" / run.run_id

    def seen(text: str) -> str:
        assert (
            execute(Job(str(tmp_path), leave_and_report, inputs={"text": text}), run).outcome
            == "finished"
        )
        return json.loads((folder / "result.json").read_text())["seen"]

    assert (seen("first"), seen("other")) == ("nothing", "nothing")
    (folder / "result.json").unlink()
    assert seen("other") == "made from the first inputs"  # its own folder, of the same key


def test_two_domains_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="each of another name"):
        StudyConfig(
            domains=(str(tmp_path / "x" / "news"), str(tmp_path / "y" / "news")), baseline="news"
        )
    assert StudyConfig(domains=("code", "corpora/news.v1")).domain_names == ("code", "news.v1")


def test_another_configuration_is_refused_and_harms_nothing(finished):
    before = {p: p.read_bytes() for p in finished.glob("*.*")}
    done = relscale("study", "--out", finished, *SMALL_STUDY, "--seed", "7")
    assert done.returncode == 2 and "--seed 0" in done.stderr and done.stderr.count("\n") == 1
    assert {p: p.read_bytes() for p in finished.glob("*.*")} == before


@pytest.mark.long
def test_a_loss_that_is_not_finite_is_named(tmp_path):
    out = tmp_path / "wild"
    done = relscale(
        "study", "--out", out, *SMALL_STUDY[:4], "4e9", *SMALL_STUDY[7:], "--lr-constant", "1e5"
    )
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "the loss is not finite at step" in line and "lower its learning rate" in line
    assert (pd.read_parquet(out / "runs.parquet")["status"] == "diverged").all()


@pytest.mark.long
def test_a_full_disk_is_named_and_what_is_finished_stays(finished, tmp_path):
    """The study goes on from a copy with one result taken away, on a file system with no room left.

    Needs root, to mount a small file system; skips without.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        subprocess.run(["cp", "-r", finished, disk / "study"], check=True)
        victim = sorted((disk / "study" / "runs").iterdir())[0]
        subprocess.run(["rm", "-r", victim, disk / "study" / "compiled"], check=True)
        kept = {p: p.read_bytes() for p in (disk / "study").glob("runs/*/result.json")}
        with open(disk / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass
        done = relscale("study", "--out", disk / "study", *SMALL_STUDY)
        assert done.returncode == 2 and "no space left" in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr
        assert {p: p.read_bytes() for p in kept} == kept
        (disk / "filler").unlink()
        again = relscale("study", "--out", disk / "study", *SMALL_STUDY)
        assert again.returncode == 0, again.stderr
        for name in TABLES:
            assert (disk / "study" / name).read_bytes() == (finished / name).read_bytes(), name
    finally:
        subprocess.run(["umount", disk], check=True)

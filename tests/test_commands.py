"""Flags and choices into what the library is given: nothing here trains."""

import importlib.util
import subprocess
import sys

import pandas as pd
import pytest

from relscale import __version__, train_commands
from relscale.cli import main
from relscale.core import UserError
from relscale.plan.recipes import SMALL, load_plan, plan_isoflop
from relscale.study import StudyConfig, draw_study, study_plan
from relscale.sweep.leases import LeaseRule
from relscale.sweep.prepare import TextConfig
from relscale.sweep.store import connect
from relscale.sweep.suite import fill_mixtures, settle
from relscale.tables import read_table, write_table
from relscale.train_commands import LeaseChoices, PlanCommand, QuestionChoices, TrainCommand


def test_the_version(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"relscale {__version__}\n"


def test_a_rate_of_preemptions_is_hours_between_them(monkeypatch):
    """A quarter a day is one in 96 hours; none a day is never."""
    monkeypatch.setattr("relscale.plan.simulation.simulate_fleet", lambda cost, fleet: fleet)
    command = PlanCommand(chip="h100", devices=64, preemptions_per_day=0.25)
    fleet = train_commands._simulate(command, None)
    assert (fleet.num_devices, fleet.mtbf_hours) == (64, 96)


def test_seconds_of_a_lease_are_the_rules():
    assert LeaseChoices(beat_s=1.0, dead_after_s=9.0).lease == LeaseRule(1.0, 9.0)


def test_questions_are_those_of_the_flags():
    found = QuestionChoices("hf", limit=3, shots=2, format="mcq").questions()
    assert (found.items, found.limit, found.shots, found.format) == ("hf", 3, 2, "mcq")
    assert QuestionChoices().questions().items == "."


def test_a_process_joins_when_it_was_told_how(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    alone = TrainCommand(tmp_path, "run", "store")
    assert train_commands._joining(alone) is None
    told = TrainCommand(tmp_path, "run", "store", coordinator="a:1", processes=2, index=0)
    given = {"coordinator": "a:1", "num_processes": 2, "process_index": 0}
    assert train_commands._joining(told) == given
    cluster = TrainCommand(tmp_path, "run", "store", join=True)
    assert train_commands._joining(cluster) == dict.fromkeys(given)
    with pytest.raises(UserError, match="together, or --join alone"):
        train_commands._joining(TrainCommand(tmp_path, "run", "store", index=0))


def test_a_store_takes_more_runs_and_no_others(tmp_path):
    """A plan may grow; a run of the same name that is another, or another text, is refused, and the plan there stays."""
    store, small = connect(tmp_path), plan_isoflop((3.9e10,), SMALL)
    settle(store, small, TextConfig())
    grown = plan_isoflop((3.9e10, 7e10), SMALL)
    settle(store, grown, TextConfig())
    before = store.find("plan.json").content
    assert load_plan(before.decode()) == grown
    other = plan_isoflop((3.9e10,), SMALL, mixture=(("code", 1.0),))
    with pytest.raises(UserError, match="holds another run"):
        settle(store, other, TextConfig())
    with pytest.raises(UserError, match="holds a sweep with text_seed=0, and this one has 1"):
        settle(store, grown, TextConfig(text_seed=1))
    assert store.find("plan.json").content == before


def test_open_mixtures_are_equal_shares():
    runs = plan_isoflop((3.9e10,), SMALL, corpora=("everything",)).runs
    assert fill_mixtures(runs, ("code", "bible"))[0].mixture == (("code", 0.5), ("bible", 0.5))


def test_help_of_all_commands_comes_at_once():
    """Without pandas and JAX, each of which takes longer than all the rest."""
    code = (
        "import sys\nfrom relscale.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'pandas', 'jax', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_misspelt_option_gets_the_nearest_name(capsys):
    assert main(["plan", "--budget", "1e18"]) == 2
    assert "did you mean --budgets?" in capsys.readouterr().err


def test_a_study_mixes_its_domains_equally():
    config = StudyConfig(domains=("code", "bible"), budgets=(3.9e10,), min_sizes=1)
    assert {run.mixture for run in study_plan(config).runs} == {(("code", 0.5), ("bible", 0.5))}


def test_the_laws_of_a_study_follow_its_choices(tmp_path, monkeypatch):
    """What the analysis is asked for is what the configuration says."""
    asked = []

    def analyse(runs, scores, **choices):
        asked.append(choices)
        raise UserError("seen")

    monkeypatch.setattr("relscale.analysis.analyse", analyse)
    monkeypatch.setattr("relscale.tables.read_table", lambda path: None)
    config = StudyConfig(baseline="docs", interval="pairs", n_bootstrap=500, seed=3)
    with pytest.raises(UserError, match="seen"):
        draw_study(tmp_path, config)
    assert asked == [
        {"baseline": "docs", "interval": "pairs", "n_bootstrap": 500, "random_seed": 3}
    ]


def test_parquet_without_its_extra_is_one_line(tmp_path, monkeypatch, capsys):
    """The base install reads and writes all but Parquet; neither way leaves or passes over anything."""
    table, path = pd.DataFrame({"run_id": ["a"], "loss": [3.0]}), tmp_path / "t.parquet"
    write_table(table, path)
    found = importlib.util.find_spec
    hide = lambda name: None if name == "pyarrow" else found(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    for use in (lambda: read_table(path), lambda: write_table(table, tmp_path / "u.parquet")):
        with pytest.raises(UserError, match=r"pip install 'relscale\[parquet\]'"):
            use()
    assert main(["fit", str(path), "--baseline", "x"]) == 2
    assert "relscale[parquet]" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]

"""`relscale fit` and `report` on tables that others made: what they write, and one line for each slip."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale.analysis import Analysis, analyse, analyse_points
from relscale.laws.simulate import Design, Noise, Surface, simulate_suite
from relscale.tables import read_table, write_table

RELSCALE = Path(sys.executable).with_name("relscale")
FLOPS = np.geomspace(1e18, 1e20, 6)


def relscale(folder, *arguments):
    return subprocess.run(
        [RELSCALE, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120
    )


def long_table(noise=0.002, seed=0):
    rng = np.random.default_rng(seed)
    laws = {"code": (30, -0.05), "law": (60, -0.07), "slang": (35, -0.045)}
    return pd.concat(
        pd.DataFrame(
            {"domain": n, "flops": FLOPS, "bpb": a * FLOPS**b * np.exp(noise * rng.normal(size=6))}
        )
        for n, (a, b) in laws.items()
    )


MAP = ("--map", "group=domain", "flops=train_flops", "value=bpb")


def test_a_table_becomes_verdicts_laws_and_a_page(tmp_path):
    long_table().to_csv(tmp_path / "own.csv", index=False)
    done = relscale(tmp_path, "fit", "own.csv", "--baseline", "code", *MAP, "--laws", "laws.csv")
    assert (done.returncode, done.stderr) == (0, "")
    laws = pd.read_csv(tmp_path / "laws.csv").set_index("group")
    for name, truth in (("law", -0.02), ("slang", 0.005)):
        assert laws.at[name, "low"] < truth < laws.at[name, "high"]
        assert f"A relative law for {name}?" in done.stdout
    page = (tmp_path / "own-report.html").read_text()
    assert "Is the ratio a law?" in page and "Where the frontier lies" not in page
    assert "bpb" in page and "<script" not in page


def test_checkpoints_of_runs_are_judged_as_blocks(tmp_path):
    rng, rows = np.random.default_rng(5), []
    for run in range(12):
        luck = 0.01 * rng.normal()
        for share in (0.4, 0.7, 1.0):
            flops = 1e18 * 1.5**run * share
            rows.append(("code", f"r{run}", flops, 3 * flops**-0.01))
            rows.append(("law", f"r{run}", flops, 4 * flops**-0.02 * np.exp(luck)))
    table = pd.DataFrame(rows, columns=["group", "run_id", "train_flops", "value"])
    table.to_csv(tmp_path / "own.csv", index=False)
    plain = relscale(tmp_path, "fit", "own.csv", "--baseline", "code", "--pair-runs")
    assert plain.returncode == 2 and "interval='block'" in plain.stderr
    done = relscale(
        tmp_path,
        "fit",
        "own.csv",
        "--baseline",
        "code",
        "--pair-runs",
        "--interval",
        "block",
        "--laws",
        "laws.csv",
    )
    assert done.returncode == 0, done.stderr
    laws = pd.read_csv(tmp_path / "laws.csv").set_index("group")
    assert laws.at["law", "low"] < -0.01 < laws.at["law", "high"]
    assert "Is the ratio a law?" not in (tmp_path / "own-report.html").read_text()


def test_wide_and_long_tables_give_one_answer(tmp_path):
    table = long_table()
    table.to_parquet(tmp_path / "long.parquet")
    wide = table.pivot(index="flops", columns="domain", values="bpb").reset_index()
    wide.to_csv(tmp_path / "wide.csv", index=False)
    relscale(tmp_path, "fit", "long.parquet", "--baseline", "code", *MAP, "--laws", "a.csv")
    done = relscale(
        tmp_path, "fit", "wide.csv", "--baseline", "code", "--map", "train_flops=flops",
        "--groups", "code", "law", "slang", "--laws", "b.csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    a, b = (pd.read_csv(tmp_path / n).drop(columns="metric") for n in ("a.csv", "b.csv"))
    pd.testing.assert_frame_equal(a, b, rtol=1e-9)


def test_report_draws_the_same_page_again(tmp_path):
    long_table().to_csv(tmp_path / "own.csv", index=False)
    relscale(tmp_path, "fit", "own.csv", "--baseline", "code", *MAP)
    first = (tmp_path / "own-report.html").read_bytes()
    done = relscale(
        tmp_path, "report", "own.csv", "--baseline", "code", *MAP, "--out", "again.html"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.html").read_bytes() == first


def test_a_folder_of_csv_tables_with_other_names_is_drawn(tmp_path):
    runs, scores = simulate_suite({"code": Surface(2.0, 0.2), "law": Surface(2.6, 0.26)}, seed=1)
    runs.rename(columns={"train_flops": "flops"}).to_csv(tmp_path / "runs.csv", index=False)
    scores.rename(columns={"value": "bits"}).to_csv(tmp_path / "scores.csv", index=False)
    done = relscale(
        tmp_path, "report", ".", "--baseline", "code", "--map", "train_flops=flops", "value=bits"
    )
    assert done.returncode == 0, done.stderr
    laws = pd.read_csv(tmp_path / "laws.csv").set_index("group")
    expected = analyse(runs, scores, baseline="code").laws()
    assert laws.at["law", "delta_beta"] == pytest.approx(expected.at["law", "delta_beta"], rel=1e-9)


COUNT = """
import os, sys
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
from relscale.cli import main
sys.argv[0] = "relscale"
code = main()
print([sum(os.path.basename(f) == name for f in opened) for name in ("own.csv", "runs.csv", "scores.csv")])
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments, reads",
    [
        (("fit", "own.csv", *MAP), [1, 0, 0]),
        (("report", "own.csv", *MAP), [1, 0, 0]),
        (("report", "."), [0, 1, 1]),
    ],
)
def test_a_command_reads_each_file_once(tmp_path, arguments, reads):
    """Two readers of one file are two rules for what is missing; so each command opens it once."""
    long_table().to_csv(tmp_path / "own.csv", index=False)
    for name, table in zip(
        ("runs", "scores"),
        simulate_suite({"code": Surface(2.0, 0.2), "law": Surface(2.6, 0.26)}),
        strict=True,
    ):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-c", COUNT, *arguments, "--baseline", "code"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(reads)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "jsonl"])
def test_every_format_gives_one_answer(tmp_path, suffix):
    rows = long_table().rename(columns={"domain": "group", "flops": "train_flops", "bpb": "value"})
    write_table(rows, tmp_path / f"own.{suffix}")
    done = relscale(
        tmp_path, "fit", f"own.{suffix}", "--baseline", "code", "--laws", f"laws.{suffix}"
    )
    assert done.returncode == 0, done.stderr
    laws = read_table(tmp_path / f"laws.{suffix}").set_index("group")
    expected = analyse_points(rows, baseline="code").laws()
    assert laws.at["law", "delta_beta"] == expected.at["law", "delta_beta"]


@pytest.mark.parametrize(
    "change, arguments, words",
    [
        (None, ("--baseline", "news", *MAP), "no baseline 'news'"),
        (None, ("--baseline", "code"), "no column 'train_flops'"),
        (None, ("--baseline", "code", "--map", "cost=flops"), "--map 'cost=flops'"),
        (None, ("--baseline", "code", *MAP, "value=flops"), "mapped twice"),
        (None, ("--baseline", "code", *MAP, "--out", "page.pdf"), "name it .html"),
        (None, ("--baseline", "code", *MAP, "--interval", "block"), "run="),
        (lambda t: t.assign(bpb=t["bpb"].where(t["domain"] != "law", -1.0)), ("--baseline", "code", *MAP), "positive"),
        (lambda t: t.assign(bpb=np.nan), ("--baseline", "code", *MAP), "no value"),
        (lambda t: pd.concat([t, t]), ("--baseline", "code", *MAP), "stands twice"),
        (lambda t: t[t["flops"] < 3e18], ("--baseline", "code", *MAP), "at least 3"),
        (lambda t: t[t["domain"] == "code"], ("--baseline", "code", *MAP), "1 group only"),
        (lambda t: t.iloc[1:], ("--baseline", "code", *MAP), "has no row at"),
    ],
)  # fmt: skip
def test_each_slip_is_one_line_and_writes_nothing(tmp_path, change, arguments, words):
    table = long_table() if change is None else change(long_table())
    table.to_csv(tmp_path / "own.csv", index=False)
    done = relscale(tmp_path, "fit", "own.csv", *arguments)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["own.csv"]


@pytest.mark.parametrize(
    "how, words",
    [
        ({"sep": ";"}, "commas between columns"),
        ({"encoding": "latin-1"}, "save it as UTF-8"),
        ({"header": ["domain", " flops", "bpb"]}, "did you mean ' flops'?"),
    ],
)
def test_a_spreadsheets_habits_are_named(tmp_path, how, words):
    table = long_table()[["domain", "flops", "bpb"]].replace("law", "d\u00e9cret")
    table.to_csv(tmp_path / "own.csv", index=False, **how)
    done = relscale(tmp_path, "fit", "own.csv", "--baseline", "code", *MAP)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_score_is_told_from_an_error(tmp_path):
    """Accuracies rise, and an error that rises with compute in every group is most likely one."""
    table = long_table()
    for name, value in (("error", table["bpb"]), ("score", 1 - table["bpb"] / 9)):
        table.assign(bpb=value).to_csv(tmp_path / f"{name}.csv", index=False)
        done = relscale(tmp_path, "fit", f"{name}.csv", "--baseline", "code", *MAP)
        assert done.returncode == 0, done.stderr
        assert ("1 - accuracy" in done.stderr) == (name == "score"), done.stderr
        page = (tmp_path / f"{name}-report.html").read_text()
        assert ("1 - accuracy" in page) == (name == "score")


def test_points_read_off_a_frontier_give_the_suites_laws():
    runs, scores = simulate_suite(
        {"code": Surface(2.0, 0.2), "law": Surface(2.6, 0.26), "slang": Surface(2.1, 0.15)},
        Design(num_sizes=7), Noise(), seed=2,
    )  # fmt: skip
    suite = analyse(runs, scores, baseline="code")
    points = analyse_points(suite.frontier, baseline="code", metric="bits_per_byte")
    numbers = ["delta_beta", "low", "high", "p_adjusted"]
    pd.testing.assert_frame_equal(points.summary()[numbers], suite.summary()[numbers])
    assert points.isoflop is None and points.num_budgets == suite.num_budgets
    back = Analysis.from_json(suite.to_json())  # the whole analysis, fits and rows included
    pd.testing.assert_frame_equal(back.laws(), suite.laws())
    pd.testing.assert_frame_equal(back.relative.predict(1e15), suite.relative.predict(1e15))


def test_nested_interval_of_an_analysis_redraws_the_runs():
    groups = {"code": Surface(2.0, 0.2), "law": Surface(2.6, 0.26), "slang": Surface(2.1, 0.2)}
    runs, scores = simulate_suite(groups, Design(num_sizes=7), Noise(0.01, 0.003), seed=3)
    t = analyse(runs, scores, baseline="code").summary()
    nested = analyse(runs, scores, baseline="code", interval="nested", n_bootstrap=500).summary()
    assert nested["delta_beta"].equals(t["delta_beta"])
    width = (nested["high"] - nested["low"]) / (t["high"] - t["low"])
    # both measure the same noise here: of 35 runs, not of 5 points, so narrower than Student's by chance and freedom
    assert width.between(0.2, 1.6).all(), width
    again = analyse(runs, scores, baseline="code", interval="nested", n_bootstrap=500).summary()
    pd.testing.assert_frame_equal(again, nested)

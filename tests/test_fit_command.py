"""`relscale fit` and `report` on tables that others made: what they write, and one line for each slip."""

import contextlib
import html
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest

from relscale.analysis import Analysis, analyse, analyse_points, further_warnings
from relscale.cli import main
from relscale.core import UserError
from relscale.laws.simulate import Design, Noise, Surface, simulate_suite
from relscale.table_fit import fit
from relscale.tables import read_table, write_table

RELSCALE = Path(sys.executable).with_name("relscale")
FLOPS = np.geomspace(1e18, 1e20, 6)


def relscale(folder, *arguments, page=False):
    """The command in this process: its exit code, output and errors. A page takes longer than all else, so few draw it."""
    out, err = io.StringIO(), io.StringIO()
    drawn = contextlib.nullcontext() if page else patch("relscale.report.write_report")
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        drawn,
    ):
        code = main([*map(str, arguments)])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def in_a_shell(folder, *arguments):
    return subprocess.run(
        [RELSCALE, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=300
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
    asked = ("own.csv", "--baseline", "code", *MAP)
    done = relscale(tmp_path, "fit", *asked, "--laws", "laws.csv", page=True)
    assert (done.returncode, done.stderr) == (0, "")
    laws = pd.read_csv(tmp_path / "laws.csv").set_index("group")
    for name, truth in (("law", -0.02), ("slang", 0.005)):
        assert laws.at[name, "low"] < truth < laws.at[name, "high"]
        assert f"A straight law for {name}?" in done.stdout
    page = (tmp_path / "own-report.html").read_text()
    assert "Is the ratio a law?" in page and "Where the frontier lies" not in page
    assert "bpb" in page and "<script" not in page
    again = relscale(tmp_path, "report", *asked, "--out", "again.html", page=True)
    assert again.returncode == 0 and (tmp_path / "again.html").read_text() == page


def many_groups(number):
    """A wide table of groups with names of many lengths and scripts."""
    rng = np.random.default_rng(1)
    names = [f"{'very_' * (k % 7)}long_subject_{k}" for k in range(number - 2)] + [
        "一二三四五六",
        "café",
    ]
    return pd.DataFrame(
        {"train_flops": FLOPS}
        | {n: 9 * FLOPS ** (-0.05 - 2e-4 * k) * np.exp(0.002 * rng.normal(size=6)) for k, n in enumerate(names)}
    )  # fmt: skip


@pytest.mark.parametrize("width", [80, 120])
def test_what_is_printed_fits_a_terminal_and_says_what_the_page_says(tmp_path, monkeypatch, width):
    from relscale.report import verdict_words

    monkeypatch.setenv("COLUMNS", str(width))
    table = many_groups(57)
    table.to_csv(tmp_path / "own.csv", index=False)
    asked = ("own.csv", "--baseline", "long_subject_0", "--groups", *table.columns[1:])
    said = relscale(tmp_path, "fit", *asked, "--verbose").stdout.split("\n\n")[0].splitlines()
    words = verdict_words(fit(table, baseline="long_subject_0", groups=list(table.columns[1:])))
    rows = [line for line in said[2:] if "%" in line]
    assert len(rows) == len(words) == 56
    cells = [len(line) + sum("一" <= c <= "龥" for c in line) for line in said]
    assert said[0] == "Change per tenfold compute of the error relative to long_subject_0:"
    assert max(cells) <= width
    ends = [k for k, line in zip(cells[1:], said[1:], strict=True) if "  " in line.strip()]
    assert len(set(ends)) == 1  # P stands flush right in every line
    text = "\n".join(said)
    for name, row in words.iterrows():
        at = text.index(f"{name} ") if f"\n{name} " in text else text.index(f"\n{name}\n")
        line = text[at:].strip().split(row["interval"].replace("−", "-"))[0]
        for word in (row["falls"], row["gap"], row["percent"].replace("−", "-")):
            assert word in line, name
    assert ("ratio" in said[1]) == (width == 120)  # it stands there too where it fits


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
    assert plain.returncode == 0 and "the run is the unit" not in plain.stderr
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
    assert "A straight law" not in done.stdout  # no test of independent points judges checkpoints


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


def test_a_report_takes_the_metric_and_the_task(tmp_path):
    """Suites log other errors and several tasks: the command asks for both by its own options, and then takes them."""
    runs, scores = simulate_suite({"code": Surface(2.0, 0.2), "law": Surface(2.6, 0.26)}, seed=1)
    first = scores.assign(metric="nats_per_token", task="paloma")
    other = scores.assign(metric="nats_per_token", task="web", value=scores["value"] ** 2)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    pd.concat([first, other]).to_csv(tmp_path / "scores.csv", index=False)
    asked = []
    for words in ("--metric nats_per_token", "--task paloma, --task web"):
        done = relscale(tmp_path, "report", ".", "--baseline", "code", *asked)
        assert done.returncode == 2 and words in done.stderr, done.stderr
        asked += ["--metric", "nats_per_token"]
    done = relscale(
        tmp_path, "report", ".", "--baseline", "code", "--metric", "nats_per_token", "--task", "web"
    )
    assert done.returncode == 0, done.stderr
    laws = pd.read_csv(tmp_path / "laws.csv").set_index("group")
    expected = analyse(runs, other, baseline="code", metric="nats_per_token").laws()
    assert laws.at["law", "delta_beta"] == pytest.approx(expected.at["law", "delta_beta"], rel=1e-9)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("fit", "absent.csv", "--laws", "laws.txt"), "--laws laws.txt"),
        (("report", ".", "--out", "page.pdf"), "--out page.pdf"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused_before_any_file_is_read(
    tmp_path, arguments, words
):
    done = relscale(tmp_path, *arguments, "--baseline", "code")
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert not any(tmp_path.iterdir())


COUNT = """
import os, sys
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
from unittest.mock import patch
from relscale.cli import main
sys.argv[0] = "relscale"
patch("relscale.report.write_report").start()
code = main()
print([sum(os.path.basename(f) == name for f in opened) for name in ("own.csv", "runs.csv", "scores.csv")])
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments, reads",
    [
        (("fit", "own.csv", *MAP), [2, 0, 0]),
        (("report", "own.csv", *MAP), [2, 0, 0]),
        (("report", "."), [0, 2, 2]),
    ],
)
def test_a_command_reads_each_file_once(tmp_path, arguments, reads):
    """Two readers of one file are two rules for what is missing; so each command opens it once to read it, and once for its hash."""
    long_table().to_csv(tmp_path / "own.csv", index=False)
    for name, table in zip(
        ("runs", "scores"),
        simulate_suite({"code": Surface(2.0, 0.2), "law": Surface(2.6, 0.26)}),
        strict=True,
    ):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-c", COUNT, *arguments, "--baseline", "code"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
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
        (None, ("--baseline", "news", *MAP), "no baseline 'news': there is code, law, slang"),
        (None, ("--baseline", "code", "--map", "cost=flops"), "--map 'cost=flops'"),
        (None, ("--baseline", "code", *MAP, "value=flops"), "mapped twice"),
        (None, ("--baseline", "code", *MAP, "--out", "page.pdf"), "name it .html"),
        (None, ("--baseline", "code", *MAP, "--interval", "block"), "--map run_id="),
        (None, ("--baseline", "Code", *MAP), "did you mean 'code'?"),
        (None, ("--baseline", "code", *MAP, "--level", "95"), "--level 95.0: a confidence level"),
        (None, ("--baseline", "code", *MAP, "--scale", "num_params"), "--map num_params=YOURS"),
        (None, ("--baseline", "code", *MAP, "--only", "domain"), "--only 'domain': write column=value"),
        (None, ("--baseline", "code", *MAP, "--rename", "lav=Law"), "--rename names 'lav': did you mean 'law'?"),
        (None, ("--baseline", "code", *MAP, "--higher-is-better", "code=up"), "say yes or no"),
        (None, ("--baseline", "code", *MAP, "--metric", "nll"), "none called 'nll'"),
        (None, ("--baseline", "code", *MAP, "--figure", "f.jpg"), "--figure f.jpg: name it .pdf, .png or .svg"),
        (None, ("--baseline", "code", *MAP, "--json", "own.csv/a.json"), "own.csv is a file"),
        (None, ("--baseline", "code", *MAP, "--json", "a.json", "--laws", "a.json"), "name them apart"),
        (lambda t: t.assign(task=["a", "b"] * 9), ("--baseline", "code", *MAP), "choose one by --only 'task=VALUE'"),
        (lambda t: t.assign(bpb=t["bpb"].where(t["domain"] != "law", -1.0)), ("--baseline", "code", *MAP), "positive"),
        (lambda t: t.assign(bpb=np.nan), ("--baseline", "code", *MAP), "empty: fill it"),
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
    "how",
    [
        {"sep": ";"},
        {"sep": ";", "decimal": ","},
        {"encoding": "utf-16"},
        {"header": ["Domain", " flops", "bpb"]},
    ],
)
def test_a_spreadsheets_habits_are_read(tmp_path, how):
    """Semicolons, decimal commas, UTF-16 and headers with spaces give the laws of the plain table, and no name need be told."""
    table = long_table()[["domain", "flops", "bpb"]].replace("law", "d\u00e9cret")
    found = {}
    for name, options in (("own", how), ("plain", {})):
        table.to_csv(tmp_path / f"{name}.csv", index=False, **options)
        done = relscale(
            tmp_path, "fit", f"{name}.csv", "--baseline", "code", "--laws", f"{name}-laws.csv"
        )
        assert done.returncode == 0 and "read: took " in done.stdout, done.stderr
        found[name] = pd.read_csv(tmp_path / f"{name}-laws.csv")[
            ["group", "delta_beta", "low", "high"]
        ]
    pd.testing.assert_frame_equal(found["own"], found["plain"])


def test_a_score_is_told_from_an_error(tmp_path):
    """A value that rises in every group is refused until its direction is declared; declared, the error is 1 - value."""
    table = long_table()
    table.assign(bpb=1 - table["bpb"] / 9).rename(columns={"bpb": "y"}).to_csv(
        tmp_path / "score.csv", index=False
    )
    table.assign(bpb=table["bpb"] / 9).rename(columns={"bpb": "y"}).to_csv(
        tmp_path / "error.csv", index=False
    )
    columns = ("--map", "group=domain", "train_flops=flops", "value=y")
    asked = relscale(tmp_path, "fit", "score.csv", "--baseline", "code", *columns)
    assert asked.returncode == 2 and "--higher-is-better yes" in asked.stderr, asked.stderr
    laws = []
    for name, told in (("score", "yes"), ("error", "no")):
        done = relscale(
            tmp_path,
            "fit",
            f"{name}.csv",
            "--baseline",
            "code",
            *columns,
            "--higher-is-better",
            told,
            "--laws",
            f"{name}-laws.csv",
        )
        assert done.returncode == 0, done.stderr
        laws.append(pd.read_csv(tmp_path / f"{name}-laws.csv")["delta_beta"])
    np.testing.assert_allclose(*laws, rtol=1e-9)


def test_members_are_used_where_they_are_named(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for group in ("stem", "law"):
        for member in range(6):
            slope = 0.03 * rng.normal()
            rows += [
                (group, f"{group}{member}", f, 2.0 * (f / 1e19) ** (slope - 0.05)) for f in FLOPS
            ]
    table = pd.DataFrame(rows, columns=["domain", "subject", "flops", "loss"])
    table.to_csv(tmp_path / "own.csv", index=False)
    done = relscale(
        tmp_path, "fit", "own.csv", "--baseline", "stem", "--member", "subject", "--verbose"
    )
    assert done.returncode == 0, done.stderr
    assert "Of members like these" in done.stdout


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


# --- what people have: each in one command, through the command itself


def models(num=7, seed=0):
    """Sizes in billions, and losses of three countries under known laws in parameters."""
    rng = np.random.default_rng(seed)
    size = np.geomspace(0.1, 12, num).round(3)
    laws = {"usa": (3.0, -0.08), "india": (3.4, -0.07), "kenya": (3.8, -0.1)}
    noise = {g: np.exp(0.001 * rng.normal(size=num)) for g in laws}
    return size, {g: a * size**b * noise[g] for g, (a, b) in laws.items()}


def wide_csv(folder):
    size, losses = models()
    frame = pd.DataFrame(
        {"model": [f"m{i}" for i in range(7)], "params_B": size, "tokens_B": 20 * size}
    )
    frame = frame.assign(**{f"loss_{g}": v for g, v in losses.items()})
    frame.loc[2, "loss_india"] = None
    frame.to_csv(folder / "own.csv", index=False)
    return ["own.csv", "--baseline", "usa", "--scale", "num_params"], "row 4: 1 row left out"


def excel_sheet(folder):
    pytest.importorskip("openpyxl")
    size, losses = models()
    frame = pd.DataFrame({"Modell": [f"m{i}" for i in range(7)], "Parameter (Mrd.)": size})
    frame.assign(**{f"Verlust {g}": v for g, v in losses.items()}).to_excel(
        folder / "own.xlsx", index=False
    )
    return ["own.xlsx", "--baseline", "usa"], "read: took num_params = Parameter (Mrd.)"


def long_with_seeds(folder):
    rows = [
        {"size": f"{n:g}B", "seed": s, "dialect": g, "bpb": losses[g][i]}
        for s in range(3) for losses in [models(seed=s)[1]] for i, n in enumerate(models()[0]) for g in losses
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "own.tsv", sep="\t", index=False)
    return ["own.tsv", "--baseline", "usa", "--seed", "seed"], "num_params = size; group = dialect"


def accuracies(folder):
    size, losses = models()
    frame = pd.DataFrame({"Model Size (B)": size})
    frame.assign(**{f"acc_{g} (%)": 100 - 20 * v for g, v in losses.items()}).to_csv(folder / "own.csv", sep=";", decimal=",", index=False)  # fmt: skip
    return ["own.csv", "--baseline", "usa"], "better when higher, so the error is 1 - value"


@pytest.mark.parametrize("make", [wide_csv, excel_sheet, long_with_seeds, accuracies])
def test_a_newcomers_table_takes_one_command(tmp_path, make):
    """Right laws, the guess and every doubt on the terminal and on the page in the same words, and files to go on with."""
    arguments, words = make(tmp_path)
    files = ["--figure", "f.svg", "--latex", "t.tex", "--json", "a.json"]
    done = in_a_shell(tmp_path, "fit", *arguments, *files)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "a.json").read_text())
    laws = {law["group"]: law for law in content["groups"]}
    for group, truth in (("india", 0.01), ("kenya", -0.02)):
        assert abs(laws[group]["delta_beta"] - truth) < 0.002, laws[group]
        assert group in (tmp_path / "t.tex").read_text()
    assert words in done.stdout and (tmp_path / "f.svg").stat().st_size > 5000
    page = html.unescape((tmp_path / "own-report.html").read_text())
    for warning in content["warnings"]:
        assert warning in page and warning in done.stdout
    assert all(note in page and f"read: {note}" in done.stdout for note in content["notes"])


def test_python_and_the_command_are_one_function(tmp_path):
    arguments, _ = wide_csv(tmp_path)
    done = relscale(tmp_path, "fit", *arguments, "--json", "-", "--rename", "kenya=Kenya")
    told = json.loads(done.stdout)
    study = fit(
        tmp_path / "own.csv", baseline="usa", scale="num_params", renames={"loss_kenya": "Kenya"}
    )
    assert told["warnings"] == study.warnings and told["notes"] == list(study.notes)
    assert [law["group"] for law in told["groups"]] == study.groups == ["usa", "Kenya", "india"]
    assert told["groups"][1]["low"] == study.summary().loc["Kenya", "low"]
    assert all(f"warning: {w}" in done.stderr for w in further_warnings(study))
    back = Analysis.from_json(study.to_json())
    assert back.notes == study.notes and back.warnings == study.warnings


def test_quiet_says_warnings_alone(tmp_path):
    arguments, _ = wide_csv(tmp_path)
    done = relscale(tmp_path, "fit", *arguments, "--quiet")
    assert done.stdout == "" and all(
        line.startswith("warning: ") for line in done.stderr.splitlines()
    )


def test_units_and_directions_are_told_by_name():
    size, losses = models()
    frame = pd.DataFrame({"size": size, "good": 1 - losses["usa"] / 9, "bad": losses["kenya"] / 9})
    with pytest.raises(UserError, match="is not a whole number"):
        fit(frame, baseline="bad")
    told = {
        "units": {"size": "billions"},
        "higher_is_better": {"Good": True, "bad": False},
        "renames": {"good": "Good"},
    }
    study = fit(frame, baseline="bad", **told)
    assert study.rows["num_params"].max() == 12_000_000_000
    assert abs(study.summary().loc["Good", "delta_beta"] - 0.02) < 0.002


def test_checkpoints_without_a_scale_give_one_step_of_every_run(tmp_path):
    """A blank last step of one run makes the step before it the last that all runs have; nothing of it is silent."""
    size, losses = models()
    frame = pd.concat(
        pd.DataFrame({"run": range(7), "step": step, "params_B": size, **{f"loss_{g}": v * (1 + 10 / step) for g, v in losses.items()}})
        for step in (100, 200, 300)
    )  # fmt: skip
    frame.loc[(frame["run"] == 3) & (frame["step"] == 300), "loss_india"] = None
    study = fit(frame.reset_index(drop=True), baseline="usa")
    assert "step 200, the last that all runs have, is taken" in " ".join(study.warnings)
    assert len(study.rows) == 21 and study.rows["value"].max() == losses["kenya"][0] * 1.05


def test_budgets_within_some_percent_are_questioned():
    rng = np.random.default_rng(0)
    flops = np.repeat(np.geomspace(1e18, 1e21, 4), 4) * rng.uniform(0.97, 1.03, 16)
    frame = pd.DataFrame(
        {
            "flops": flops,
            "loss_a": 30 * flops**-0.05,
            "loss_b": 40 * flops**-0.055 * np.exp(0.002 * rng.normal(size=16)),
        }
    )
    assert any("lie within some percent of 4" in w for w in fit(frame, baseline="a").warnings)
    frame["flops"] = np.geomspace(1e18, 1e21, 16)
    assert not any("some percent" in w for w in fit(frame, baseline="a").warnings)


def test_many_groups_are_no_list_of_paragraphs(tmp_path):
    rng = np.random.default_rng(1)
    rows = [
        (f"g{i:02d}", f, (2 + i / 50) * f ** (-0.05 - 0.0005 * i) * np.exp(0.001 * rng.normal()))
        for i in range(57) for f in FLOPS
    ]  # fmt: skip
    pd.DataFrame(rows, columns=["group", "train_flops", "value"]).to_csv(
        tmp_path / "own.csv", index=False
    )
    done = relscale(tmp_path, "fit", "own.csv", "--baseline", "g00", page=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) < 50, done.stdout
    page = (tmp_path / "own-report.html").read_text()
    assert page.count("<li><strong>g") <= 12


@pytest.mark.parametrize(
    "header, cells",
    [
        ("模型;参数量（亿）;损失_英语;损失_法语", lambda n, v: f"{n * 10:.6g};{v[0]};{v[1]}"),
        (
            "модель;параметры (млрд);потери английский;потери французский",
            lambda n, v: f"{n:.6g};{v[0]};{v[1]}",
        ),
        (
            "modèle;Mrd. paramètres;perte_anglais;perte_français",
            lambda n, v: f"{n:.6g};{v[0]};{v[1]}",
        ),
        (
            "name;model size (millions);evalLoss(english);evalLoss(french)",
            lambda n, v: f"{n * 1000:.6g};{v[0]};{v[1]}",
        ),
        (
            "モデル;パラメータ数 (B);正解率_英語;正解率_仏語",
            lambda n, v: f"{n:.6g};{1 - v[0] / 9};{1 - v[1] / 9}",
        ),
        (
            "run;parâmetros (bilhões);one minus acc en;one minus acc fr",
            lambda n, v: f"{n:.6g};{v[0] / 9};{v[1] / 9}",
        ),
    ],
)
def test_headers_of_other_languages(tmp_path, header, cells):
    size, losses = models()
    pairs = list(zip(losses["usa"], losses["kenya"], strict=True))
    lines = [f"m{i};{cells(n, v)}" for i, (n, v) in enumerate(zip(size, pairs, strict=True))]
    (tmp_path / "own.csv").write_text("\n".join([header, *lines]), encoding="utf-8-sig")
    study = fit(tmp_path / "own.csv", baseline=header.split(";")[2])
    assert study.rows["num_params"].max() == 12_000_000_000
    assert abs(study.summary()["delta_beta"].item() + 0.02) < 0.002, study


def shapes():
    """Tables whose law is known, and words of the warning or note that each must carry."""
    size, losses = models()
    ways = {"usa": losses["usa"], "kenya": losses["kenya"]}
    names = [f"{n:g}B" for n in size]
    wide = pd.DataFrame({"params": size * 1e9, **{f"loss_{g}": v for g, v in ways.items()}})
    long = pd.concat(
        pd.DataFrame({"params": size * 1e9, "lang": g, "bpb": v}) for g, v in ways.items()
    )
    worse = wide.iloc[:2].assign(loss_usa=9.0, loss_kenya=8.0, state="crashed")
    ppl = wide.set_axis(["params", "ppl_usa", "ppl_kenya"], axis=1)
    return {
        "on its side": (pd.DataFrame([[g, *v] for g, v in ways.items()], columns=["language", *names]), {}, "each row as a group"),
        "names tell sizes": (wide.assign(params=[f"toy-{n}" for n in names]).rename(columns={"params": "model"}), {}, "sizes were taken from the names in model"),
        "crashed": (pd.concat([wide.assign(state="finished"), worse]), {}, "2 rows left out: state is crashed"),
        "padded names": (long.assign(lang=long["lang"] + [" ", ""] * 7), {}, "group = lang"),
        "unknown heads": (wide.set_axis(["params", "usa", "kenya"], axis=1).assign(hours=3.0), {}, "the columns usa, kenya were taken for groups"),
        "logarithms": (wide.assign(params=np.log10(wide["params"])).rename(columns={"params": "log10_params"}), {}, "num_params = log10_params"),
        "perplexities": (ppl.assign(ppl_usa=np.exp(ppl["ppl_usa"]), ppl_kenya=np.exp(ppl["ppl_kenya"])), {"units": {"value": "ppl"}}, "ppl_usa:ppl"),
        "a metric of several": (wide.assign(acc_usa=0.5, acc_kenya=0.4), {"metric": "loss"}, "usa (loss_usa)"),
        "a row of a metric": (pd.concat([long.assign(metric=m, bpb=v).rename(columns={"bpb": "value"}) for m, v in (("bpb", long["bpb"]), ("acc", 0.5))]), {"metric": "bpb"}, "only metric bpb was asked for"),
        "unnamed heads of groups": (long.rename(columns={"lang": "which"}), {}, "the column which was taken for groups"),
    }  # fmt: skip


@pytest.mark.parametrize("name", shapes())
def test_a_table_of_another_shape_gives_the_same_law(name):
    table, options, words = shapes()[name]
    study = fit(table, baseline="usa", n_bootstrap=100, **options)
    assert list(study.relative.table.index) == ["kenya"] and len(study.rows) == 14
    assert abs(study.summary()["delta_beta"].item() + 0.02) < 0.002, study
    assert words in " ".join([*study.notes, *study.warnings]), study


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: pd.concat([t.assign(corpus=c) for c in ("c4", "rw")]), "2 values of corpus (c4, rw): choose one"),
        (lambda t: pd.concat([t.assign(lab=c) for c in ("x", "y")]), "choose by only={'lab': ...}, in which they differ"),
        (lambda t: t.assign(loss_usa=-t["loss_usa"], loss_kenya=-t["loss_kenya"]), "give the negative"),
        (lambda t: pd.DataFrame({"Step": [1, 2], "a - loss_usa": [3.0, 2.0], "b - loss_usa": [2.9, 1.9]}), "a panel of W&B"),
        (lambda t: t.drop(columns="params"), "no column tells a scale"),
        (lambda t: t.assign(loss_kenya=[3.0, 2.0, *[None] * 5]), "empty: fill it"),
    ],
)  # fmt: skip
def test_what_cannot_be_settled_is_one_line(change, words):
    table = change(shapes()["crashed"][0].query("state == 'finished'").drop(columns="state"))
    with pytest.raises(UserError) as told:
        fit(table, baseline="usa")
    assert words in str(told.value) and "\n" not in str(told.value), told.value

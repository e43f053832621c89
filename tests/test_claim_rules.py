"""Claims before data: their rules, the errors of these, and that a change after the data cannot go unseen."""

import contextlib
import dataclasses
import html
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale.analysis import analyse_points
from relscale.claim_answers import answer_claims
from relscale.cli import main
from relscale.core import UserError, data_path
from relscale.laws.simulate import Surface, simulate_suite
from relscale.manifest import read_manifest, verify_report
from relscale.plan.claims import Claim, hash_claims, read_claims
from relscale.plan.recipes import SMALL, load_plan, plan_isoflop, save_plan
from relscale.sweep.driver import SweepResult
from relscale.sweep.prepare import TextConfig
from relscale.sweep.store import connect, seal
from relscale.sweep.suite import keep_tables, settle
from relscale.sweep.verify import verify_store
from relscale.tables import read_table

STATED = (Claim("text", "code", "slower", delta_beta=0.02), Claim("speech", "code", "slower"))


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_claims", data_path("claims/make.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def points(log_ratio, flops) -> pd.DataFrame:
    parts = [pd.DataFrame({"group": "base", "train_flops": flops, "value": 2.0})]
    for i, row in enumerate(log_ratio):
        parts.append(pd.DataFrame({"group": f"g{i:02d}", "train_flops": flops, "value": 2 * np.exp(row)}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_the_simulation_decides_as_the_report_does(make):
    """One table of the simulation through the fit that users have: the same P by each rule."""
    log_ratio = make.draw(6, 3, np.random.default_rng(2))
    study = analyse_points(points(log_ratio, make.FLOPS), baseline="base")
    p = make.p_values(log_ratio, 3, 0)
    for rule in ("none", "claims", "groups"):
        claims = [Claim(f"g{i:02d}", "base", "faster", adjusted=rule) for i in range(3)]
        found = answer_claims(study, claims).table
        near = {"abs": 0.02} if rule == "groups" else {"rel": 1e-9}  # joint P by other draws
        assert found["p"].to_numpy() == pytest.approx(p[rule], **near)


def test_holm_counts_claims_that_cannot_be_answered():
    """A claim on a group that was never measured was stated all the same."""
    rows = points(np.array([[0.0, 0.011, 0.02, 0.028, 0.041]]), np.geomspace(1e18, 1e20, 5))
    study = analyse_points(rows, baseline="base")
    one = [Claim("g00", "base", "slower")]
    alone = answer_claims(study, one).table["p"][0]
    four = answer_claims(study, [*one, *(Claim(f"x{i}", "base", "slower") for i in range(3))]).table
    assert four["p"][0] == pytest.approx(4 * alone)
    assert list(four["answer"].str.startswith("cannot be answered")) == [False, True, True, True]
    assert (
        answer_claims(study, [Claim("g00", "base", "faster")]).table["answer"][0] == "contradicted"
    )


def test_rules_hold_their_level_and_holm_over_claims_finds_more(make):
    """The shipped table, n 4000 each, and 300 tables anew."""
    errors = read_table(data_path("claims/errors.csv"))
    assert set(errors["n_sims"]) == {4000} and len(errors) == 9
    held = errors[errors["rule"] != "none"]
    assert (held["false_any"] <= 0.05 + 3 * held["stderr"]).all()
    wide = errors.pivot(index=["num_groups", "num_claims"], columns="rule", values="power")
    assert wide.loc[(16, 4), "claims"] > wide.loc[(16, 4), "groups"] + 0.05
    loose = errors[(errors["rule"] == "none") & (errors["num_claims"] == 16)].iloc[0]
    assert loose["false_any"] > 0.2
    anew = pd.DataFrame(make.simulate(4, 4, 300)).set_index("rule")
    known = errors[(errors["num_groups"] == 4)].set_index("rule")
    for rule in make.RULES:
        gap = abs(anew.at[rule, "false_any"] - known.at[rule, "false_any"])
        assert gap < 4 * np.hypot(anew.at[rule, "stderr"], known.at[rule, "stderr"])


# --- in a plan and in a store


def test_a_plan_carries_its_claims_and_an_older_one_has_none():
    plan = dataclasses.replace(plan_isoflop((3.9e10,), SMALL), claims=STATED)
    assert load_plan(save_plan(plan, seal=True)) == plan
    assert set(plan.to_frame()["claims"]) == {hash_claims(STATED)}
    old = json.loads(save_plan(plan))
    del old["claims"]
    assert load_plan(json.dumps(old)).claims == () and "claims" not in load_plan(json.dumps(old)).to_frame()  # fmt: skip
    text = save_plan(plan, seal=True).replace('"alpha": 0.05', '"alpha": 0.25', 1)
    with pytest.raises(UserError, match="damaged"):
        load_plan(text)


def test_a_run_keeps_the_claims_that_stood_when_it_finished(tmp_path):
    store = connect(tmp_path)
    plan = dataclasses.replace(plan_isoflop((3.9e10, 7e10), SMALL), claims=STATED)
    first, *others = [run.run_id for run in plan.runs]
    assert settle(store, plan, TextConfig()) == [] == settle(store, plan, TextConfig())
    store.write(f"runs/{first}/result.json", seal({"status": "finished"}))
    assert settle(store, plan, TextConfig()) == []
    later = dataclasses.replace(plan, claims=(dataclasses.replace(STATED[0], alpha=0.2), STATED[1]))
    (note,) = settle(store, later, TextConfig())
    assert f"CHANGED AFTER THE DATA: 1 of {len(plan.runs)}" in note
    result = SweepResult({r: {"status": "finished", "scores": []} for r in (first, *others)}, {})
    keep_tables(store, later, result, suite="s", say=lambda line: None)
    stood = read_table(tmp_path / "runs.parquet").set_index("run_id")["claims"]
    assert stood[first] == hash_claims(STATED) and set(stood[others]) == {hash_claims(later.claims)}
    parts = verify_store(tmp_path).table.set_index("part")["state"]
    assert parts["claims"] == "whole"
    (tmp_path / "claims.json").write_text(
        "{}"
    )  # a history that is lost: nothing is taken as stated before
    assert "CHANGED" in settle(store, later, TextConfig())[0]


# --- in a report


def suite(folder: Path, claims, stated) -> None:
    surfaces = {
        "code": Surface(1.3, 0.25),
        "text": Surface(2.0, 0.2),
        "speech": Surface(2.3, 0.249),
    }
    runs, scores = simulate_suite(surfaces)
    runs.assign(claims=hash_claims(stated)).to_csv(folder / "runs.csv", index=False)
    scores.to_csv(folder / "scores.csv", index=False)
    plan = dataclasses.replace(plan_isoflop((3.9e10,), SMALL), claims=tuple(claims))
    (folder / "plan.json").write_text(save_plan(plan))


def told(folder, *words) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        return main([*map(str, words)]), out.getvalue()


def test_the_report_answers_each_claim_by_its_rule(tmp_path):
    suite(tmp_path, STATED, STATED)
    code, out = told(tmp_path, "report", ".", "--baseline", "code")
    assert code == 0 and "claimed: text: error falls more slowly than on code" in out and "): shown (" in out  # fmt: skip
    page = html.unescape((tmp_path / "report.html").read_text())
    assert "What was claimed" in page and "CHANGED AFTER" not in page
    assert (
        f"the claims ({hash_claims(STATED)}) stood before each of the 25 runs had finished" in page
    )
    assert f"{tmp_path.name}/plan.json" in read_manifest(tmp_path / "report.html")[0].origin.inputs
    assert verify_report(tmp_path / "report.html").whole


def test_a_rule_that_changed_after_the_data_is_loud(tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr("relscale.report.write_report", lambda analysis, *a, **k: pages.append(analysis))  # fmt: skip
    changed = (dataclasses.replace(STATED[0], alpha=0.2), STATED[1])
    suite(tmp_path, changed, STATED)
    code, out = told(tmp_path, "report", ".", "--baseline", "code")
    assert code == 0 and "warning: CLAIMS CHANGED AFTER THE DATA: 25 of 25 runs" in out
    assert pages[0].warnings[0].startswith("CLAIMS CHANGED AFTER THE DATA")
    (tmp_path / "own.json").write_text(json.dumps({"claims": [dataclasses.asdict(c) for c in STATED]}))  # fmt: skip
    assert "CHANGED" not in told(tmp_path, "report", ".", "--baseline", "code", "--claims", "own.json")[1]  # fmt: skip
    assert "cannot be answered: the baseline here is text" in told(tmp_path, "report", ".", "--baseline", "text")[1]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[{]", "not valid JSON"),
        ('{"claims": 3}', "no list of claims"),
        ('[{"group": "a", "baseline": "b"}]', "field 'direction' is missing"),
        (
            '[{"group": "a", "baseline": "b", "direction": "up"}]',
            "is not one of 'faster', 'slower'",
        ),
        ('[{"group": "a", "baseline": "b", "direction": "faster", "alpha": 5}]', "alpha=5"),
        ("[]", "no claims in it"),
    ],
)
def test_a_slip_in_claims_is_one_line(tmp_path, content, said):
    (tmp_path / "claims.json").write_text(content)
    rows = points(np.array([[0.0, 0.011, 0.02, 0.028, 0.041]]), np.geomspace(1e18, 1e20, 5))
    rows.to_csv(tmp_path / "own.csv", index=False)
    code, out = told(tmp_path, "fit", "own.csv", "--baseline", "base", "--claims", "claims.json")
    assert code == 2 and said in out and len(out.splitlines()) == 1
    if content != "[]":
        with pytest.raises(UserError, match="claims.json: "):
            read_claims(tmp_path / "claims.json")

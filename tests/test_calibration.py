"""Worlds draw what their lucks say, targets are what they are called, and calibration counts them rightly."""

import dataclasses
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from relscale.core import UserError
from relscale.laws.calibration import (
    Target,
    Trials,
    calibrate,
    judge_coverage,
    suite_trials,
    world_trials,
)
from relscale.laws.isoflop import fit_isoflop
from relscale.laws.simulate import (
    OWN,
    RATES,
    Design,
    Luck,
    Noise,
    Surface,
    budget_world,
    family_world,
    member_world,
    oracle_stderr,
    trunk_world,
)  # fmt: skip

TWO = {"faster": -0.02, "level": 0.0}
DRIFT = (Luck(0.01, ("run",)), Luck(0.005, ("group", "train_flops"), memory=0.8))
WALK = (Luck(0.002, ("group", "run")), Luck(0.003, ("group", "train_flops"), memory=1.0))
WORLDS = {
    "budgets": budget_world(5),
    "seeds": budget_world(
        4,
        rates=TWO,
        seeds=(1, 4, 2, 3),
        lucks=(*OWN, Luck(0.005, ("group", "budget"), growth=-0.3)),
    ),
    "drift": budget_world(6, rates=TWO, lucks=DRIFT),
    "walk": budget_world(6, rates=TWO, lucks=WALK),
    "known": budget_world(5, relative_stderr=[0.03, 0.002, 0.02, 0.004, 0.05]),
    "members": member_world({"baseline": 3, "faster": 5}, 4, rates={"faster": -0.02}),
    "families": family_world((3, 5, 4), rates=TWO),
    "trunks": trunk_world(4, 3, rates={"faster": -0.02}),
}


@cache
def covariance_of(world):
    """The covariance of log errors, pair by pair of rows: nothing but the definition of each luck."""
    rows, z = world.rows.to_dict("records"), world.z
    fitted = sorted({r["train_flops"] for r in rows})
    found = np.zeros((len(rows), len(rows)))
    for luck in world.lucks:
        size = [luck.sd * np.exp(luck.growth * v) * (v if luck.slope else 1) for v in z]
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                shared = [c for c in luck.of if not (luck.memory and c == "train_flops")]
                if any(a[c] != b[c] for c in shared):
                    continue
                at, to = (fitted.index(r["train_flops"]) for r in (a, b))
                share = 1.0
                if luck.memory == 1:
                    share = min(at, to) + 1.0
                elif luck.memory:
                    share = luck.memory ** abs(at - to)
                found[i, j] += size[i] * size[j] * share
    known = [r.get("relative_stderr", 0.0) ** 2 for r in rows]
    return found + np.diag(known)


@pytest.mark.parametrize("name", WORLDS)
def test_draws_have_the_covariance_of_their_lucks(name):
    """20,000 draws; every one of up to 10,000 entries within 5.5 of its Monte Carlo errors (one chance in 2,000 a world)."""
    world = WORLDS[name]
    theory = covariance_of(world)
    n, drawn = 20_000, world.draw(20_000, seed=3)[0]
    off = np.cov(drawn.T) - theory
    scatter = np.sqrt((np.outer(theory.diagonal(), theory.diagonal()) + theory**2) / n)
    assert (np.abs(off) <= 5.5 * scatter + 1e-15).all(), np.abs(off / scatter).max()
    law = world.rows["truth"] + world.rows.get("shift", 0.0)
    error = np.sqrt(theory.diagonal() / n)
    assert (np.abs(drawn.mean(axis=0) - law) <= 5 * error + 1e-12).all()


def solve(world, covariance):
    """Generalised least squares: weights of every treatment's slope less the baseline's, over fitted rows."""
    rows, z, fitted = world.rows, world.z, world.fitted
    names = [world.baseline, *world.groups]
    side = np.stack([(rows["group"] == n).to_numpy(float) for n in names], axis=1)
    design = np.concatenate([side, side * z[:, None]], axis=1)[fitted]
    whiten = np.linalg.inv(np.linalg.cholesky(covariance[np.ix_(fitted, fitted)]))
    weights = np.linalg.pinv(whiten @ design) @ whiten
    first = len(names)
    return np.stack([weights[first + g] - weights[first] for g in range(1, len(names))])


@pytest.mark.parametrize("name", WORLDS)
def test_an_oracle_covers_what_every_target_is_called(name):
    """4,000 suites: with known variances a normal interval of half width 1.96 oracle errors covers 95 %, within 4 errors."""
    world = WORLDS[name]
    trials, fitted = world_trials(world, 4000, seed=5), world.fitted
    log = world.draw(4000, seed=5)[0][:, fitted]
    np.testing.assert_allclose(next(iter(trials.tables))["value"], np.exp(log[0]))
    weights = solve(world, covariance_of(world))
    slopes = log @ weights.T
    bound = 4 * np.sqrt(0.05 * 0.95 / 4000)
    seen = {t.question: t for t in trials.targets}
    for question in {"slope", "members like these"} & set(seen):
        target = seen[question]
        held = np.abs(slopes - target.values) <= norm.ppf(0.975) * target.oracle
        assert np.abs(held.mean(axis=0) - 0.95).max() < bound, question
    if "these members" in seen:
        target = seen["these members"]
        plain = solve(world, np.eye(len(world.rows)))
        held = np.abs(log @ plain.T - target.values) <= norm.ppf(0.975) * target.oracle
        assert np.abs(held.mean(axis=0) - 0.95).max() < bound
    if "a new family" in seen:
        tau = family_world.__kwdefaults__["tau"]
        spread = (seen["a new family"].values - list(map(RATES.get, trials.groups))).std(axis=0)
        np.testing.assert_allclose(spread, tau, rtol=4 / np.sqrt(2 * 4000))
    assert log.shape == (4000, fitted.sum())


def test_new_and_far_runs_are_independent_of_the_data_and_of_known_spread():
    """4,000 suites of plain budgets: the law at a held run, and the spread of the run about it, are those of the oracle's parts."""
    trials = world_trials(WORLDS["budgets"], 4000, seed=6)
    by = {t.question: t for t in trials.targets}
    law, new, far = by["law"], by["new run"], by["far run"]
    assert (law.scale, new.scale, far.scale) == pytest.approx((1e20, 1e20, 1e21))
    np.testing.assert_allclose(np.ptp(law.values, axis=0), 0)
    own = np.sqrt(2) * 0.005  # of treatment and baseline
    np.testing.assert_allclose((new.values - law.values).std(axis=0), own, rtol=4 / np.sqrt(8000))
    np.testing.assert_allclose(new.oracle**2, law.oracle**2 + own**2)
    assert (far.oracle > new.oracle).all()
    rates = np.array([RATES[g] for g in trials.groups])
    step = far.values.mean(axis=0) - law.values[0]
    np.testing.assert_allclose(step, rates * np.log(10), atol=5 * own / np.sqrt(4000))


def test_oracle_knows_floors():
    """A floor leaves less of the error to move: the oracle's slope error grows by the share that is not floor."""
    plain, high = (
        oracle_stderr(budget_world(5, rates={"a": 0.0}, floors={"baseline": f, "a": f}))
        for f in (0.0, 0.5)
    )
    ratio = high.loc["a", "slope"] / plain.loc["a", "slope"]
    assert 1.8 < ratio < 2.2
    np.testing.assert_allclose(high.loc["a", "law"], plain.loc["a", "law"], rtol=0.2)


class Answer:
    """An answer with given ends, as fits have them."""

    def __init__(self, ends, sign="unresolved", doubts=()):
        self.table = pd.DataFrame(
            {"low": ends[0], "high": ends[1], "verdict_rate": sign}, index=["a", "b"]
        )
        self.doubts = list(doubts)


def test_counts_are_those_of_a_hand_count():
    """Five suites: held by both, by one, by none with doubts, refused, and without an interval."""
    values = np.zeros((5, 2))
    given = [
        Answer(([-1, -1], [1, 1])),
        Answer(([-1, 0.5], [1, 1]), ["unresolved", "improves more slowly"]),
        Answer(([0.5, 0.5], [1.5, 1.5]), "improves faster", ["one budget carries it"]),
        None,
        Answer(([np.nan, -1], [np.nan, 1])),
    ]

    def fit(table):
        answer = given[table["number"].iloc[0]]
        if answer is None:
            raise UserError("refused")
        return answer

    tables = [pd.DataFrame({"number": [i]}) for i in range(5)]
    trials = Trials(tables, [Target("slope", values, np.array([0.1, 0.1]))], ["a", "b"], {}, 5)
    found = calibrate(trials, {"fit": fit})
    row = found.summary().iloc[0]
    assert row["coverage"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert row["stderr"] == pytest.approx(0.5 / np.sqrt(3))
    assert row["unsure"] == pytest.approx(3 / 5) and row["n_sure"] == 2
    assert row["coverage_sure"] == pytest.approx(0.75)
    assert row["width"] == pytest.approx((2 + 1) / 2)
    assert row["relative_width"] == pytest.approx(1.5 / (2 * norm.ppf(0.975) * 0.1))
    said = found.false_verdicts().iloc[0]
    assert (said["n_sims"], said["num_null"]) == (4, 2)
    assert said["false"] == pytest.approx(2 / 4)
    assert said["false_and_sure"] == pytest.approx(1 / 4)


def test_signs_of_verdicts_are_read():
    """A verdict is right only with the sign of the truth."""
    values = np.tile([-0.02, 0.02], (2, 1))
    words = iter([["improves faster", "improves more slowly"], ["improves slower", "unresolved"]])
    trials = Trials([pd.DataFrame()] * 2, [Target("slope", values)], ["a", "b"], {}, 2)
    found = calibrate(trials, {"fit": lambda _: Answer(([-1, -1], [1, 1]), next(words))})
    said = found.false_verdicts().iloc[0]
    assert (said["right"], said["wrong_sign"]) == (2 / 4, 1 / 4)
    assert np.isnan(said["false"])
    values = np.tile([-0.02, 0.0], (2, 1))
    words = iter([["improves faster", "unresolved"], ["unresolved", "improves faster"]])
    trials = Trials([pd.DataFrame()] * 2, [Target("slope", values)], ["a", "b"], {}, 2)
    found = calibrate(trials, {"fit": lambda _: Answer(([-1, -1], [1, 1]), next(words))})
    said = found.false_verdicts().iloc[0]
    assert (said["false"], said["num_null"], said["right"]) == (0.5, 1, 0.5)


def test_judgement_needs_the_level_or_a_word():
    table = pd.DataFrame({
        "coverage": [0.95, 0.991, 0.88, 0.88, 0.88, 0.88, np.nan, 0.925],
        "stderr": [0.005] * 8,
        "unsure": [0.0, 0.0, 0.0, 0.95, 0.3, 0.3, 1.0, 0.0],
        "coverage_sure": [0.95, 0.991, 0.88, 0.5, 0.95, 0.85, np.nan, 0.925],
    })  # fmt: skip
    assert judge_coverage(table).tolist() == [
        "holds", "wide", "fails", "says so", "says so", "fails", "says so", "holds",
    ]  # fmt: skip


def test_suites_without_noise_have_the_slopes_and_optima_in_closed_form():
    """Exponents that differ by a common factor; the frontier read at each group's own optimum is an exact power law."""
    groups = {"baseline": Surface(2.0, 0.3, 0.15), "fast": Surface(2.3, 0.36, 0.18)}
    design = Design(tuple(np.geomspace(1e18, 1e20, 4)), num_sizes=41, span=64.0)
    trials = suite_trials(groups, design, Noise(0, 0), n_sims=1, off_center=0.4)
    table = next(iter(trials.tables))
    slopes = {}
    for name, own in table.groupby("group"):
        best = own.groupby("budget_flops")["value"].min()
        slopes[name] = np.polyfit(np.log(best.index.to_numpy(float)), np.log(best), 1)[0]
    assert slopes["fast"] - slopes["baseline"] == pytest.approx(
        trials.targets[0].values[0, 0], rel=0.01
    )
    with pytest.raises(UserError, match="agree in b"):
        suite_trials(groups | {"odd": Surface(2.0, 0.2)}, design, Noise(0, 0), n_sims=1)


def test_what_goes_wrong_is_planted():
    design, groups = Design(tuple(np.geomspace(1e18, 1e20, 5)), num_sizes=12), {"baseline": Surface(2.0, 0.2), "a": Surface(2.1, 0.2)}  # fmt: skip
    clean, bad = (
        next(iter(suite_trials(groups, design, Noise(), n_sims=1, diverged=k).tables))
        for k in (0, 3)
    )
    off = bad["value"] / clean["value"]
    moved = off[off > 1.5]
    assert len(moved) == 6 and moved.between(2, 4).all()
    assert bad.loc[moved.index, "budget_flops"].nunique() == 1
    assert bad.loc[moved.index, "run_id"].nunique() == 3
    outside = next(iter(suite_trials(groups, design, Noise(0, 0), n_sims=1, off_center=8.0).tables))
    runs = outside[outside["group"] == "a"].assign(loss=lambda t: t["value"])
    assert (fit_isoflop(runs).optima["status"] != "interior").all()
    spent = next(iter(suite_trials(groups, design, Noise(), n_sims=1, spread=0.1).tables))
    ratio = np.log(spent["train_flops"] / spent["budget_flops"])
    assert 0.07 < ratio.std() < 0.13


def test_a_planted_member_is_one_of_these_members():
    """Its slope moves the mean of these members and not that of members like these."""
    counts, rates = {"baseline": 3, "faster": 4}, {"faster": -0.02}
    plain, planted = (
        {t.question: t.values for t in world_trials(member_world(counts, 4, rates=rates, planted=k), 3, seed=1).targets}
        for k in (0.0, 5.0)
    )  # fmt: skip
    np.testing.assert_allclose(planted["these members"] - plain["these members"], 5 * 0.03 / 4)
    np.testing.assert_allclose(planted["members like these"], -0.02)


def test_no_answer_is_said_in_one_line():
    trials = dataclasses.replace(world_trials(WORLDS["budgets"], 2), targets=[Target("a new family", np.zeros((2, 4)))])  # fmt: skip
    answer = Answer(([-1, -1], [1, 1]))
    answer.table = pd.DataFrame({"x": [1, 2, 3, 4]}, index=trials.groups)
    with pytest.raises(UserError, match="none of fit has columns for a new family") as caught:
        calibrate(trials, {"fit": lambda _: answer})
    assert "\n" not in str(caught.value)

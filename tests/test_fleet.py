"""A suite on a fleet: schedules against brute force, preemptions against renewal theory, intervals against Young and Daly."""

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from relscale.cli import main
from relscale.core import UserError
from relscale.plan.chips import H100_SXM, find_chip
from relscale.plan.comparison import best_interval, compare_fleets
from relscale.plan.cost import StepChoices, estimate_cost
from relscale.plan.fleet import (
    Fleet,
    daly_interval,
    exact_interval,
    expected_hours,
    fleet_runs,
    young_interval,
)
from relscale.plan.recipes import HELD2025_BUDGETS, plan_isoflop
from relscale.plan.simulation import PARTS, simulate_fleet


def runs_of(hours, devices=1, state_bytes=1e9):
    """A runs frame with a run for each number of hours."""
    n = len(hours)
    return pd.DataFrame(
        {
            "run_id": [f"r{i}" for i in range(n)],
            "budget_flops": 1.0,
            "devices": np.broadcast_to(devices, n),
            "hours": np.asarray(hours, float),
            "state_bytes": np.broadcast_to(state_bytes, n),
        }
    )


@pytest.fixture(scope="module")
def suite():
    layout = StepChoices("bfloat16", remat="block", fused_attention=True, sharding="fsdp")
    plan = plan_isoflop(HELD2025_BUDGETS, corpora=("commonpile", "dclm", "nemotron"))
    return fleet_runs(estimate_cost(plan, H100_SXM, choices=layout))


def wall(hours, num_devices, devices=1):
    """End of the suite without preemptions; checkpoints of a byte, at no time that counts."""
    fleet = Fleet(num_devices, write_bytes_per_s=1e15)
    return simulate_fleet(runs_of(hours, devices, 1.0), fleet).suites["wall_hours"].iloc[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 3))
def test_longest_first_is_within_grahams_bound(hours, k):
    """Graham 1969: at most 4/3 - 1/(3K) of the best of all K**n ways to place the runs, found by trying them."""
    best = min(
        max(sum(h for h, at in zip(hours, places, strict=True) if at == d) for d in range(k))
        for places in itertools.product(range(k), repeat=len(hours))
    )
    assert best - 1e-6 <= wall(hours, k) <= (4 / 3 - 1 / (3 * k)) * best + 1e-6


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1, 2, 4])), min_size=1, max_size=12),
    st.integers(4, 9),
)
def test_no_device_idles_that_a_waiting_run_could_use(pairs, k):
    """At each start, and at each moment between, the free devices are too few for every run that still waits."""
    hours, devices = zip(*pairs, strict=True)
    fleet = Fleet(k, write_bytes_per_s=1e15)
    spans = simulate_fleet(runs_of(hours, devices, 1.0), fleet).spans
    assert len(spans) == len(pairs)
    for t in np.unique(spans["start"]):
        held = spans[(spans["start"] <= t) & (spans["end"] > t)]["devices"].sum()
        waiting = spans[spans["start"] > t]["devices"]
        assert held <= k and (waiting > k - held).all()


def test_a_fleet_of_more_devices_is_never_later(suite):
    """Exact for runs of one device with times drawn alike: each waits for fewer."""
    alone, fleet = suite.assign(devices=1), Fleet(8, mtbf_hours=24)
    ends = [
        simulate_fleet(alone, replace(fleet, num_devices=k), n=5).suites["wall_hours"]
        for k in (8, 9, 13, 20, 64, 255)
    ]
    for fewer, more in itertools.pairwise(ends):
        assert (more <= fewer + 1e-9).all()
    assert ends[-1].max() > alone["hours"].max()


def step_by_step(hours, interval, pause, mtbf, out, rng):
    """One run's wall time, segment by segment and preemption by preemption; 64-bit floats, nothing shared."""
    clock, done = 0.0, 0.0
    while done < hours - 1e-12:
        segment = min(interval, hours - done)
        strike = rng.exponential(mtbf)
        if strike < segment + pause:
            clock += strike + out
        else:
            clock, done = clock + segment + pause, done + segment
    return clock


CASES = {
    "many segments": (20.0, 1.0, 0.1, 6.0, 0.2),
    "a short last one": (10.5, 2.0, 0.25, 3.0, 0.5),
    "one segment": (2.0, math.inf, 0.1, 2.0, 0.0),
    "checkpoints cost as much as training": (3.0, 0.5, 0.5, 4.0, 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_drawn_at_once_is_the_law_of_step_by_step(case):
    """Mean within 3.5 standard errors of the formula, and mean and spread of the plain loop's (4 cases, P < 0.01)."""
    hours, interval, pause, mtbf, out = CASES[case]
    fleet = Fleet(
        1, mtbf, replace_s=3600 * out, restart_s=0, interval_s=3600 * interval, write_bytes_per_s=1
    )
    runs = runs_of([hours], state_bytes=3600 * pause)
    drawn = simulate_fleet(runs, fleet, n=4000, seed=1).suites["wall_hours"].to_numpy()
    rng = np.random.default_rng(2)
    plain = np.array([step_by_step(hours, interval, pause, mtbf, out, rng) for _ in range(4000)])
    exact = float(expected_hours(hours, interval, pause, mtbf, out))
    for sample in (drawn, plain):
        assert abs(sample.mean() - exact) < 3.5 * sample.std() / 4000**0.5
    assert abs(drawn.std() / plain.std() - 1) < 0.1  # about 4 errors of a spread at this kurtosis


def test_expected_hours_is_the_derivation():
    """p = e^(-s/M); 1/p - 1 failures a segment, each M - s p/(1 - p) + R; scalar 64-bit floats."""
    for hours, interval, pause, mtbf, out in CASES.values():
        total, left = 0.0, hours
        while left > 1e-12:
            segment = min(interval, left)
            s, left = segment + pause, left - segment
            p = math.exp(-s / mtbf)
            total += s + (1 / p - 1) * (mtbf - s * p / (1 - p) + out)
        assert expected_hours(hours, interval, pause, mtbf, out) == pytest.approx(total, rel=1e-12)
    assert expected_hours(10.0, 3.0, 0.5, math.inf, 9.0) == 12.0


@pytest.mark.parametrize("lost", ["device", "slice"])
def test_back_to_the_queue_on_an_empty_fleet(lost):
    """With devices to spare a preempted run goes on at once, so R is the restart alone; 2,000 suites, 3.5 errors."""
    fleet = Fleet(64, 40, lost, replace_s=7200, restart_s=360, requeue=True, interval_s=3600)
    runs = runs_of([30.0], devices=4, state_bytes=180e9)
    result = simulate_fleet(runs, fleet, n=2000, seed=3)
    ends, mtbf = result.suites["wall_hours"], 10 if lost == "device" else 40
    exact = float(expected_hours(30.0, 1.0, 0.05, mtbf, 0.1))
    assert abs(ends.mean() - exact) < 3.5 * ends.std() / 2000**0.5
    waited = 0.1 * 4 + 2 * (1 if lost == "device" else 4)
    by = result.suites
    np.testing.assert_allclose(by["waiting"], waited * by["preemptions"], rtol=1e-9)


@pytest.mark.parametrize("requeue", [False, True])
@pytest.mark.parametrize("lost", ["device", "slice"])
def test_all_work_is_done_once(suite, lost, requeue):
    """Held device-hours of the attempts are those of the books, and nothing trains twice but what is booked as redone."""
    fleet = Fleet(64, 20, lost, requeue=requeue)
    result = simulate_fleet(suite, fleet, n=1, seed=5)
    by, spans = result.suites.iloc[0], result.spans
    held = ((spans["end"] - spans["start"]) * spans["devices"]).sum()
    out = 1 if lost == "device" else spans["devices"]
    if requeue:  # a device that is out is held by nobody
        failed = spans.duplicated("run_id", keep="last")
        held += (failed * out).sum() * fleet.replace_s / 3600
        assert failed.sum() == by["preemptions"] > 100
    assert held == pytest.approx(by[list(PARTS)].sum(), rel=1e-9)
    assert by["trained"] == pytest.approx((suite["hours"] * suite["devices"]).sum(), rel=1e-12)
    assert set(spans["run_id"]) == set(suite["run_id"])
    assert by["idle"] > 0 and by["redone"] > 0


def test_more_preemptions_take_longer(suite):
    """Means of 60 suites; each step of the rate is far above their errors."""
    curve = compare_fleets(suite, Fleet(64), "mtbf_hours", [4, 12, 36, 100], n=60)
    wall = curve.rows
    assert (wall["wall_hours"].diff().dropna() < -3 * wall["stderr"].max()).all()
    assert (wall["preemptions"].diff().dropna() < 0).all()


def test_intervals_of_young_and_daly():
    """Daly 2006, figures 3 to 5: 117, 57 and 9.1 minutes for checkpoints of 5; and where a checkpoint takes 2 M."""
    found = daly_interval(5.0, np.array([1440.0, 360.0, 15.0]))
    assert [float(f"{x:.2g}") if x < 10 else round(x) for x in found] == [117, 57, 9.1]
    assert young_interval(5, 1440) == 120 and daly_interval(10, 5) == 5
    ratio = np.geomspace(1e-8, 5, 200)
    y = exact_interval(ratio, 1.0)
    np.testing.assert_allclose(np.log1p(-y) + y + ratio, 0, atol=1e-12)  # its own equation
    low = ratio < 0.05
    np.testing.assert_allclose(daly_interval(ratio[low], 1.0), y[low], rtol=1e-3)
    assert exact_interval(5.0, math.inf) == math.inf


def test_simulated_intervals_agree_with_the_formulas(suite):
    """Two suites, 26 intervals: each mean within 3.7 errors of the expected one (by chance once in 170 times)."""
    six = Fleet(1, 6, replace_s=600, restart_s=0)
    daly = best_interval(runs_of([500.0], state_bytes=300e9), six, n=1000)
    paper = best_interval(suite, Fleet(64, 48), n=200)
    for curve in (daly, paper):
        rows = curve.rows
        assert (abs(rows["device_hours"] - rows["expected"]) < 3.7 * rows["stderr"]).all()
        assert rows["stderr"].max() < 0.01 * rows["expected"].min()  # the check has teeth
        assert 0.6 < curve.best_s / curve.exact_s < 1.6  # a place on a grid of factors 1.41
        assert abs(curve.daly_s / curve.exact_s - 1) < 0.03
    assert daly.exact_s / 60 == pytest.approx(57, abs=0.5)


def test_the_best_interval_of_unlike_runs_counts_their_way_back():
    """Against a scalar sum and a bounded minimiser; narrow and wide runs, twenty hours to come back."""
    runs = runs_of([400.0, 50.0], devices=[1, 16], state_bytes=[60e9, 900e9])
    fleet = Fleet(17, 40, replace_s=71_400, restart_s=600)

    def cost(minutes):
        parts = ((400, 40, 1 / 60, 1), (50, 2.5, 0.25, 16))
        return sum(
            d * w * math.expm1((minutes / 60 + c) / m) * (m + 20) * 60 / minutes
            for w, m, c, d in parts
        )

    best = minimize_scalar(cost, bounds=(1, 600), method="bounded", options={"xatol": 1e-6}).x
    assert best_interval(runs, fleet, n=2).exact_s / 60 == pytest.approx(best, rel=2e-3)


def test_a_thousand_suites_in_seconds(suite):
    start = time.process_time()
    simulate_fleet(suite, Fleet(64, 96), n=1000)
    seconds = time.process_time() - start
    print(f"1000 suites of 255 runs: {seconds:.2f} s of one core")
    assert seconds < 5  # 0.8 s on the machine that wrote this


def test_runs_take_more_devices_until_they_are_short_enough():
    """At an efficiency of 0.9 a doubling divides the hours by 1.8, and the batch is the limit."""
    plan = plan_isoflop([1e18])
    cost = estimate_cost(
        plan, H100_SXM, choices=StepChoices("bfloat16", remat="block", fused_attention=True)
    )
    one = fleet_runs(cost).set_index("run_id")
    assert (one["devices"] == 1).all()
    goal = one["hours"].max() / 3  # two doublings for the longest
    wide = fleet_runs(cost, longest_hours=goal, efficiency=0.9).set_index("run_id")
    for run_id, row in wide.iterrows():
        doublings = math.ceil(math.log(max(1, one.loc[run_id, "hours"] / goal), 1.8))
        assert row["devices"] == 2**doublings
        assert row["hours"] == pytest.approx(one.loc[run_id, "hours"] / 1.8**doublings, rel=1e-12)
    batches = cost.rows.set_index("run_id")["batch_size"]
    widest = fleet_runs(cost, longest_hours=1e-9)
    assert (widest["devices"].values == batches[widest["run_id"]].values).all()


def test_a_summary_is_of_the_suites():
    """Mean, its standard error, and where nine suites of ten lie, against numpy on the rows themselves."""
    result = simulate_fleet(runs_of([40.0, 30.0], state_bytes=60e9), Fleet(2, 10), n=100)
    wall = result.suites["wall_hours"].to_numpy()
    row = result.summary().loc["wall_hours"]
    assert row["mean"] == pytest.approx(wall.mean(), rel=1e-12)
    assert row["stderr"] == pytest.approx(wall.std(ddof=1) / 10, rel=1e-12)
    assert list(row[["low", "high"]]) == pytest.approx(np.quantile(wall, [0.05, 0.95]), rel=1e-12)


def test_a_seed_is_a_suite(suite):
    fleet = Fleet(64, 48)
    a, b, c = (simulate_fleet(suite, fleet, n=3, seed=s).suites for s in (1, 1, 2))
    pd.testing.assert_frame_equal(a, b)
    assert not a.equals(c)


def test_slips(suite):
    for slip, said in (
        (lambda: simulate_fleet(suite, Fleet(3)), "takes 4 devices, and the fleet has 3"),
        (lambda: simulate_fleet(suite, Fleet(64, 0.01)), "write more often"),
        (lambda: simulate_fleet(suite, Fleet(64, 1, interval_s=1e9)), "write more often"),
        (lambda: simulate_fleet(suite.drop(columns="hours"), Fleet(64)), "no column 'hours'"),
        (lambda: simulate_fleet(suite.iloc[:0], Fleet(64)), "at least one"),
        (lambda: simulate_fleet(suite, Fleet(64), n=0), "n=0"),
        (lambda: Fleet(64, mtbf_hours=math.nan), "mtbf_hours=nan"),
        (lambda: Fleet(64, write_bytes_per_s=math.inf), "write_bytes_per_s"),
        (lambda: Fleet(64, replace_s=-1), "replace_s=-1"),
        (lambda: Fleet(64, interval_s=0), "interval_s=0"),
        (lambda: best_interval(suite, Fleet(64)), "fewest checkpoints"),
        (lambda: compare_fleets(suite, Fleet(64), "chips", [1]), "choose one of num_devices"),
        (lambda: find_chip("h20"), "a100-40gb, .*, v6e, this-cpu"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            slip()
        assert "\n" not in str(caught.value)


def test_plan_command_simulates(capsys):
    layout = ["--chip", "v5p", "--dtype", "bfloat16", "--remat", "block", "--fused-attention"]
    layout += ["--sharding", "fsdp"]
    assert main(["plan", *layout, "--devices", "64", "--preemptions-per-day", "1"]) == 0
    said = capsys.readouterr().out
    assert "85 runs on 64 devices" in said and "of 200 simulated suites" in said
    assert main(["plan", "--budgets", "1e18", *layout, "--devices", "5"]) == 0
    assert "without preemptions" in capsys.readouterr().out
    for slip, hint in (
        ([*layout, "--devices", "1"], "the fleet has 1"),
        (["--chip", "h100", "--devices", "64"], "sharding"),
        ([*layout, "--devices", "64", "--preemptions-per-day", "nan"], "preemptions-per-day"),
    ):
        assert main(["plan", *slip]) == 2
        said = capsys.readouterr()
        assert hint in said.err and said.err.count("\n") == 1

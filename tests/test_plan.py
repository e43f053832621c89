"""The planner against the released suite's own run table, and its rules as properties."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscale.core import UserError
from relscale.plan import (
    HELD2025,
    HELD2025_BUDGETS,
    HELD2025_TRAIN_FLOPS,
    SMALL,
    load_plan,
    plan_isoflop,
    run_flops,
    save_plan,
)
from relscale.runs import load_suite


def test_held2025_gives_the_released_suite_row_by_row():
    """All 255 rows: shape, batch, steps, tokens and parameters exactly, the rate to 1e-12, FLOPs to two ulps."""
    published = load_suite("held2025")
    corpora = sorted(published["corpus"].unique())
    planned = plan_isoflop(HELD2025_BUDGETS, HELD2025, corpora=corpora).to_frame()
    key = ["corpus", "budget_flops", "hidden"]
    both = published.merge(planned, on=key, how="outer", suffixes=("", "_plan"), indicator=True)
    assert len(published) == len(planned) == 255
    assert (both["_merge"] == "both").all(), (
        "a published run is missing from the plan, or the plan has one too many"
    )
    for column in ("num_layers", "num_params", "batch_size", "num_steps", "num_tokens", "seq_len"):
        assert (both[column] == both[f"{column}_plan"]).all(), column
    rate = both["learning_rate"].notna()
    assert rate.sum() == 170  # the export left the column empty for one corpus
    error = (both["learning_rate_plan"] / both["learning_rate"] - 1).abs()
    assert error[rate].max() < 1e-12
    flops = (both["train_flops_plan"] / both["train_flops"] - 1).abs()
    assert flops.max() < 5e-16  # two ulps of a float64: the table was logged in GFLOPs


def test_budgets_in_training_flops_are_a_third():
    forward = plan_isoflop([1e18], HELD2025)
    training = plan_isoflop([3e18], HELD2025_TRAIN_FLOPS)
    shapes = [{(r.model, r.batch_size, r.num_steps) for r in p.runs} for p in (forward, training)]
    assert shapes[0] == shapes[1]


@settings(max_examples=60, deadline=None)
@given(st.floats(5e10, 5e13), st.sampled_from([0.005, 0.01, 0.02]))
def test_every_planned_run_spends_its_budget_under_the_cap(budget, cap):
    recipe = dataclasses.replace(SMALL, lr_cap=cap)
    plan = plan_isoflop([budget], recipe)
    assert len(plan.runs) <= SMALL.max_sizes
    for run in plan.runs:
        assert abs(run_flops(run)["train_flops"] / budget - 1) <= recipe.tolerance
        assert run.optim.learning_rate <= cap or run.batch_size == 1
        assert run.batch_size & (run.batch_size - 1) == 0


def test_plan_json_refuses_what_is_not_a_plan():
    text = save_plan(plan_isoflop([1e12], SMALL))
    data = json.loads(text)
    data["runs"].append(data["runs"][0])
    with pytest.raises(UserError, match="share a run_id"):
        load_plan(json.dumps(data))
    data = json.loads(text)
    data["runs"][0]["model"]["hidden"] = "wide"
    with pytest.raises(UserError, match=r"runs\[0\].model.hidden"):
        load_plan(json.dumps(data))
    with pytest.raises(UserError, match="not valid JSON"):
        load_plan(text[:100])


def test_bad_budgets_are_named():
    for bad in ([], [0.0], [-1e18], [float("nan")], [1e18, 1e18], [1e300]):
        with pytest.raises(UserError, match="budgets"):
            plan_isoflop(bad, HELD2025)


def test_no_two_runs_share_a_name():
    close = plan_isoflop([1.001e12, 1.002e12], SMALL)
    assert len({run.run_id for run in close.runs}) == len(close.runs)
    with pytest.raises(UserError, match="share a run_id"):
        plan_isoflop([1e12], SMALL, corpora=("a", "a"))


def test_the_budget_that_is_advised_works():
    with pytest.raises(UserError, match="try ") as refused:
        plan_isoflop([1e6], SMALL, min_sizes=4)
    advised = float(str(refused.value).rsplit("try ", 1)[1])
    assert len(plan_isoflop([advised], SMALL, min_sizes=4).runs) == 4
    with pytest.raises(UserError, match="keeps at most 4"):
        plan_isoflop([1e12], SMALL, min_sizes=5)

"""Errors of items: each formula against one made in another way, and each with worlds of known truth."""

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.laws import item_tables
from relscale.laws.item_gaps import fit_items
from relscale.laws.item_tables import read_items, resample_items
from relscale.laws.relative import fit_relative
from relscale.lm_samples import clustered_stderr
from relscale.suites import load_items, load_suite

FLOPS = np.geomspace(1e18, 1e21, 8)
QUICK = {"n_bootstrap": 100, "adjust": "holm"}  # what these tests do not read
RUNS = pd.DataFrame({"run_id": [f"r{p}" for p in range(8)], "train_flops": FLOPS})


def world(rng, *, clusters=30, size=4, spread=0.02, noise=0.05, slopes=(-0.06, -0.04)):
    """A wide table of two groups: items of unequal difficulty, clusters of unequal slope, noise of single answers."""
    z = np.log(FLOPS / FLOPS[0])
    parts = []
    for group, slope in zip(("base", "t"), slopes, strict=True):
        level = rng.lognormal(0, 0.5, (clusters, size))
        own = slope + spread * rng.normal(size=(clusters, 1))
        curve = np.exp(own[..., None] * z) * level[..., None]
        value = (curve * rng.lognormal(0, noise, curve.shape)).reshape(-1, len(z))
        keys = {"group": group, "item": np.arange(clusters * size), "passage": [f"{group}{c}" for c in range(clusters) for _ in range(size)],
                "length": rng.integers(1, 9, clusters * size) * 10}  # fmt: skip
        parts.append(pd.DataFrame(keys).join(pd.DataFrame(value, columns=RUNS["run_id"])))
    return pd.concat(parts, ignore_index=True)


def exponent(means):
    """Slope of log(t / base) by polyfit."""
    return np.polyfit(np.log(FLOPS), np.log(means["t"] / means["base"]), 1)[0]


# --- the table ---------------------------------------------------------------------------------


def test_cluster_robust_error_by_hand():
    """Sum over pairs of items of one cluster, written as the double sum that the formula abbreviates."""
    table = world(np.random.default_rng(0))
    read = read_items(table, cluster="passage", weight="length")
    for group, rows in table.groupby("group"):
        v, x = rows["length"].to_numpy(float), rows["r3"].to_numpy()
        mean = (v * x).sum() / v.sum()
        total, passages = 0.0, rows["passage"].to_numpy()
        for i in range(len(x)):
            for j in range(len(x)):
                if passages[i] == passages[j]:
                    total += v[i] * (x[i] - mean) * v[j] * (x[j] - mean)
        k = len(set(passages))
        by_hand = np.sqrt(k / (k - 1) * total) / v.sum()
        own = read.sums[group]
        assert own.means[3] == pytest.approx(mean, rel=1e-6)
        assert own.stderr[3] == pytest.approx(by_hand, rel=1e-4)
        assert own.stderr[3] == pytest.approx(clustered_stderr(x, passages, v), rel=1e-4)


def test_the_paired_variance_identity():
    table = world(np.random.default_rng(1))
    found = read_items(table, runs=RUNS["run_id"]).compare("r0", "r5").set_index("group")
    for group, rows in table.groupby("group"):
        a, b, n = rows["r0"].to_numpy(), rows["r5"].to_numpy(), len(rows)
        row, cov = found.loc[group], np.cov(a, b) / n
        assert row["stderr"] ** 2 == pytest.approx(np.var(a - b, ddof=1) / n, rel=1e-4)
        assert row["stderr"] ** 2 == pytest.approx(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1], rel=1e-4)
        assert row["stderr_apart"] ** 2 == pytest.approx(cov[0, 0] + cov[1, 1], rel=1e-4)
        assert row["correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-4)
        assert row["difference"] == pytest.approx((a - b).mean(), rel=1e-5)


def test_the_bootstrap_is_a_loop_over_repeated_items():
    """Every draw again, item by item, with the clusters that were drawn."""
    table = world(np.random.default_rng(2), clusters=7)
    read = read_items(table, cluster="passage", weight="length")
    fast = resample_items(read, 100, seed=3)
    (counts,) = item_tables._counts(read, 100, 3)
    runs = list(RUNS["run_id"])
    parts = {(g, n): own for (g, n), own in table.groupby(["group", "passage"])}
    for b, times in enumerate(counts[:12].astype(int)):
        assert times.sum() == len(read.names)
        for g, group in enumerate(read.groups):
            drawn = [parts[group, n] for n, many in zip(read.names, times, strict=True) for _ in range(many) if (group, n) in parts]  # fmt: skip
            rows = pd.concat(drawn)
            slow = np.average(rows[runs], axis=0, weights=rows["length"])
            np.testing.assert_allclose(fast[b, g], slow, rtol=2e-6)


def test_all_layouts_read_alike(tmp_path):
    wide = world(np.random.default_rng(3), clusters=3)
    keys = ["group", "item", "passage", "length"]
    long = wide.melt(keys, var_name="run_id").sample(frac=1, random_state=0)
    long.to_csv(tmp_path / "long.csv", index=False)
    wide.to_parquet(tmp_path / "wide.parquet")
    want = read_items(wide, cluster="passage", runs=RUNS["run_id"])
    for source in (long, tmp_path / "long.csv", tmp_path / "wide.parquet"):
        read = read_items(source, cluster="passage", runs=RUNS["run_id"]).of_runs(RUNS["run_id"])
        for group in want.groups:
            np.testing.assert_allclose(read.sums[group].means, want.sums[group].means, rtol=1e-6)
            np.testing.assert_allclose(read.sums[group].stderr, want.sums[group].stderr, rtol=1e-5)
    right = wide.assign(**{r: (wide[r] > 0.7).astype(int) for r in RUNS["run_id"]})
    as_error = read_items(right, higher_is_better=True, runs=RUNS["run_id"]).sums["t"].means
    shares = right.loc[right["group"] == "t", list(RUNS["run_id"])].mean()
    np.testing.assert_allclose(as_error, 1 - shares, rtol=1e-6)


def test_scores_feed_the_tables():
    table = read_items(world(np.random.default_rng(4)), cluster="passage", runs=RUNS["run_id"])
    scores = table.scores(task="quiz")
    assert len(scores) == 16 and (scores["num_clusters"] == 30).all() and (scores["n"] == 120).all()
    rows = scores.merge(RUNS, on="run_id")
    law = fit_relative(rows, baseline="base", stderr="stderr").summary().loc["t"]
    assert law["low"] < 0.02 < law["high"]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t, {"cluster": "author"}, "no column 'author'"),
        (lambda t: t.drop(columns="group"), {}, "no column 'group'"),
        (lambda t: t.iloc[:0], {}, "no rows"),
        (lambda t: t, {"runs": ["r0", "r9"]}, "no column of run 'r9'"),
        (lambda t: t[["group", "item", "passage"]], {}, "neither run_id and value"),
        (lambda t: pd.concat([t, t]), {}, "stands twice"),
        (lambda t: t.assign(r2=t["r2"].mask(t["item"] == 5)), {}, "'r2' has no finite value of item base 5"),
        (lambda t: t.assign(length=0), {"weight": "length"}, "length must be positive"),
        (lambda t: t, {"higher_is_better": True}, "between 0 and 1"),
        (lambda t: t.assign(passage=None), {"cluster": "passage"}, "passage is empty"),
    ],
)  # fmt: skip
def test_refusals_of_items_are_one_line(change, options, message):
    with pytest.raises(UserError, match=message) as caught:
        read_items(change(world(np.random.default_rng(5), clusters=3)), **options)
    assert "\n" not in str(caught.value)


def test_what_is_of_an_item_is_the_same_in_every_run():
    long = world(np.random.default_rng(6), clusters=3).melt(["group", "item", "passage", "length"], var_name="run_id")  # fmt: skip
    long.loc[0, "passage"] = "another"
    with pytest.raises(UserError, match="passage of an item differs"):
        read_items(long, cluster="passage")
    read_items(long)  # where it is not used it may


# --- the laws ----------------------------------------------------------------------------------


def test_errors_and_intervals_in_worlds_of_known_truth():
    """Fresh items and luck of the models: exponents by polyfit scatter over items as the formula says, and intervals hold the truth."""
    rng, slopes, rows, runs = np.random.default_rng(7), [], [], list(RUNS["run_id"])
    for _ in range(80):
        table = world(rng)
        of = dict(iter(table.groupby("group")))
        means = {g: np.average(own[runs], axis=0, weights=own["length"]) for g, own in of.items()}
        slopes.append(exponent(means))
        luck = np.exp(0.03 * rng.normal(size=8))  # of the models, alike in all items
        table.loc[table["group"] == "t", runs] *= luck
        fit = fit_items(table, RUNS, baseline="base", cluster="passage", weight="length", **QUICK)
        direct = exponent({"base": means["base"], "t": means["t"] * luck})
        assert fit.table.loc["t", "delta_beta"] == pytest.approx(direct, rel=1e-4, abs=1e-7)
        rows.append(fit.table.loc["t"])
    found, truth = pd.DataFrame(rows), 0.02
    # 80 draws know a standard deviation to 8 %, and a share of .95 to .024
    assert found["item_stderr"].mean() / np.std(slopes) == pytest.approx(1, abs=0.17)
    assert found["apart_stderr"].mean() > 1.5 * found["item_stderr"].mean()
    held = {n: (found[f"{n}low"] < truth) & (truth < found[f"{n}high"]) for n in ("", "item_", "both_")}  # fmt: skip
    assert held["both_"].mean() > 0.90
    assert held["item_"].mean() < held["both_"].mean() > held[""].mean()


def test_a_slow_bootstrap_of_the_exponent():
    """Whole clusters drawn by name, means and slopes recomputed one by one."""
    table, rng = world(np.random.default_rng(8)), np.random.default_rng(9)
    fit = fit_items(table, RUNS, baseline="base", cluster="passage", interval="bootstrap")
    of = {g: [own[list(RUNS["run_id"])].to_numpy() for _, own in rows.groupby("passage")]
          for g, rows in table.groupby("group")}  # fmt: skip
    drawn = []
    for _ in range(600):
        means = {}
        for group, blocks in of.items():
            picked = [blocks[i] for i in rng.integers(len(blocks), size=len(blocks))]
            means[group] = np.concatenate(picked).mean(axis=0)
        drawn.append(exponent(means))
    row = fit.table.loc["t"]
    assert np.std(drawn) == pytest.approx(row["item_stderr"], rel=0.12)
    assert np.std(drawn) == pytest.approx(fit.draws.std(), rel=0.12)
    np.testing.assert_allclose([row["item_low"], row["item_high"]], np.quantile(drawn, [0.025, 0.975]), atol=0.25 * row["item_stderr"])  # fmt: skip


def test_items_that_two_groups_share_cancel_between_them():
    """One set of questions in two formats: the error is that of the paired difference of logs."""
    rng, z = np.random.default_rng(10), np.log(FLOPS / FLOPS[0])
    level, slope = rng.lognormal(0, 0.5, (200, 1)), 0.03 * rng.normal(size=(200, 1))
    base = level * np.exp((slope - 0.05) * z)
    other = base * 1.2 * np.exp(0.01 * z) * rng.lognormal(0, 0.02, base.shape)
    table = pd.concat(
        pd.DataFrame(x, columns=RUNS["run_id"]).assign(group=g, item=range(200))
        for g, x in (("base", base), ("t", other))
    )
    shared = fit_items(table, RUNS, baseline="base", cluster="item", interval="bootstrap")
    alone = fit_items(table, RUNS, baseline="base")
    w = (z - z.mean()) / ((z - z.mean()) ** 2).sum()
    lever = ((other / other.mean(axis=0) - base / base.mean(axis=0)) @ w) / 200
    by_hand = np.sqrt(200 / 199 * (lever**2).sum())
    row = shared.table.loc["t"]
    assert row["item_stderr"] == pytest.approx(by_hand, rel=1e-3)
    assert shared.draws.std() == pytest.approx(by_hand, rel=0.08)
    assert row["item_stderr"] < alone.table.loc["t", "item_stderr"] / 5
    assert row["num_clusters"] == 200 and len(shared.items.names) == 200


def test_contributions_add_up_and_leaving_out_is_a_new_fit():
    table = world(np.random.default_rng(11))
    fit = fit_items(table, RUNS, baseline="base", weight="length")
    parts = fit.contributions("t")
    assert parts["to_slope"].sum() == pytest.approx(fit.table.loc["t", "delta_beta"], rel=1e-9)
    last = fit.relative.points["ratio"].iloc[-1]
    assert parts["to_gap"].sum() == pytest.approx(np.log(last), rel=1e-9)
    first = fit.contributions("t", at="r0")["to_gap"].sum()
    assert first == pytest.approx(np.log(fit.relative.points["ratio"].iloc[0]), rel=1e-9)
    by = fit.contributions("t", by="passage")
    assert by["num_items"].tolist() == [4] * 30
    assert by["to_slope"].sum() == pytest.approx(parts["to_slope"].sum())
    found = fit.carriers("t", 0.3)
    kept = table[(table["group"] == "base") | ~table["item"].isin(found.items["item"])]
    again = fit_items(kept, RUNS, baseline="base", weight="length").table.loc["t", "delta_beta"]
    assert found.without == pytest.approx(again, rel=1e-6)
    assert found.items["to_slope"].sum() >= 0.3 * found.total > found.items["to_slope"][:-1].sum()
    assert fit.growing("t", 5)["to_slope"].is_monotonic_decreasing
    # an item that falls at the baseline's own rate adds nothing, however hard it is
    base = table.loc[table["group"] == "base", ["length", *RUNS["run_id"]]]
    mean = np.average(base[RUNS["run_id"]], axis=0, weights=base["length"])
    at = table.index[(table["group"] == "t") & (table["item"] == 0)]
    table.loc[at, list(RUNS["run_id"])] = 7 * mean
    parts = fit_items(table, RUNS, baseline="base", weight="length").contributions("t")
    still = parts.set_index("item")["to_slope"]
    assert abs(still[0]) < 0.02 * still.abs().max()


def test_one_planted_subject_carries_the_exponent():
    rng = np.random.default_rng(12)
    table = world(rng, slopes=(-0.05, -0.05), spread=0.001)
    own = (table["group"] == "t") & table["passage"].isin(["t0", "t1", "t2"])
    z = np.log(FLOPS / FLOPS[0])
    table.loc[own, list(RUNS["run_id"])] *= np.exp(0.2 * z)
    found = fit_items(table, RUNS, baseline="base").carriers("t")
    assert set(found.items["passage"]) <= {"t0", "t1", "t2"}
    assert len(found.items) < found.num_if_normal
    assert fit_items(table, RUNS, baseline="base").carriers("t", of="gap").of == "gap"


def test_checkpoints_of_one_run_are_one_unit():
    """Four trunks of two checkpoints: weights differ from point to point, and the sums hold all the same."""
    runs = RUNS.assign(trunk=[*"aabbccdd"])
    fit = fit_items(world(np.random.default_rng(13)), runs, baseline="base", run="trunk", interval="bootstrap")  # fmt: skip
    assert fit.relative.shared.unit == "run"
    assert fit.contributions("t")["to_slope"].sum() == pytest.approx(fit.table.loc["t", "delta_beta"], rel=1e-6)  # fmt: skip
    assert fit.draws.std() == pytest.approx(fit.table.loc["t", "item_stderr"], rel=0.1)
    direct = fit_relative(fit.rows, baseline="base", run="trunk").summary().loc["t"]
    assert fit.table.loc["t", "delta_beta"] == pytest.approx(direct["delta_beta"], rel=1e-9)


def test_own_errors_are_those_of_single_answers():
    """Noise of answers alone, on items of shared slope: own_stderr finds it, stderr is mostly the items' difficulty."""
    table = world(np.random.default_rng(14), clusters=400, size=1, spread=0.0, noise=0.1)
    rows = fit_items(table, RUNS, baseline="base").rows
    level = table.loc[table["group"] == "t", "r0"].to_numpy()
    want = 0.1 * np.sqrt((level**2).mean() / 400)
    got = rows.loc[(rows["group"] == "t") & (rows["run_id"] == "r0"), ["stderr", "own_stderr"]].iloc[0]  # fmt: skip
    assert got["own_stderr"] == pytest.approx(want, rel=0.2)
    assert got["stderr"] > 3 * got["own_stderr"]


def test_gemstones_humanities_are_carried_by_one_subject():
    asked, gems = load_items("gemstones", step=83475), load_suite("gemstones")
    fit = fit_items(asked, gems, baseline="stem")
    by_subject = fit.contributions("humanities", by="member").set_index("member")
    assert by_subject["to_slope"].idxmax() == "moral_scenarios"
    assert by_subject.loc["moral_scenarios", "num_items"] == 895
    kept = asked[asked["member"] != "moral_scenarios"]
    without = fit_items(kept, gems, baseline="stem").table.loc["humanities", "delta_beta"]
    assert fit.carriers("humanities", by="member").without == pytest.approx(without, rel=1e-6)


def test_slips_of_a_fit_are_one_line():
    table = world(np.random.default_rng(16), clusters=3)
    fit = fit_items(table, RUNS, baseline="base")
    assert fit.notes == ("columns that are no runs were not fitted: length",)
    for make, message in (
        (lambda: fit_items(table, baseline="base"), "give runs="),
        (lambda: fit_items(table.melt(["group", "item", "passage", "length"], var_name="run_id"), RUNS.iloc[1:], baseline="base"), "'r0', which runs do not have"),
        (lambda: fit_items(table, RUNS.assign(train_flops=0.0), baseline="base"), "must be positive"),
        (lambda: fit_items(table, RUNS.drop(columns="train_flops"), baseline="base"), "runs lack train_flops"),
        (lambda: fit_items(table, RUNS, baseline="x"), "no baseline 'x'"),
        (lambda: fit_items(fit.items, RUNS, baseline="base", cluster="passage"), "were read before"),
        (lambda: fit_items(table, RUNS, baseline="base", interval="block"), "choose 't' or"),
        (lambda: fit.contributions("base"), "no group 'base' against base"),
        (lambda: fit.contributions("t", by="author"), "no such column"),
        (lambda: fit.contributions("t", at="r99"), "no run with items"),
        (lambda: fit.carriers("t", 2.0), "a share up to 1"),
        (lambda: fit.items.compare("r0", "r0"), "compared with itself"),
        (lambda: fit.items.compare("r0", "q"), "no items of run 'q'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_a_fit_goes_to_json_and_back():
    fit = fit_items(world(np.random.default_rng(17), clusters=3), RUNS, baseline="base")
    back = type(fit).from_json(fit.to_json())
    pd.testing.assert_frame_equal(back.summary(), fit.summary())
    pd.testing.assert_frame_equal(back.contributions("t"), fit.contributions("t"))

"""Errors of items: each formula against one made in another way, and each with worlds of known truth."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale.cli import main
from relscale.core import UserError
from relscale.item_page import add_texts, carrier_words, choose_groups, write_items
from relscale.laws import item_tables
from relscale.laws.item_gaps import fit_items
from relscale.laws.item_tables import read_items, resample_items
from relscale.laws.relative import fit_relative
from relscale.lm_samples import clustered_stderr
from relscale.manifest import verify_report
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


# --- the page and the command ------------------------------------------------------------------

GEMSTONES = Path(__file__).resolve().parents[1] / "data/gemstones"


def told(folder, *words):
    """Exit code, output and errors of `relscale items` in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["items", *map(str, words)])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def tables(tmp_path):
    """A folder with items, runs and texts."""
    items = world(np.random.default_rng(8)).drop(columns=["passage", "length"])
    items.assign(member=np.where(items["item"] < 40, "low", "high")).to_csv(tmp_path / "own.csv", index=False)  # fmt: skip
    RUNS.to_csv(tmp_path / "runs.csv", index=False)
    texts = items[["group", "item"]].assign(text=[f"Question <{g}> {i}?" for g, i in zip(items["group"], items["item"], strict=True)])  # fmt: skip
    texts.to_json(tmp_path / "texts.jsonl", orient="records", lines=True)
    return tmp_path


def test_the_command_says_what_the_fit_says(tables):
    code, out, err = told(tables, "own.csv", "--runs", "runs.csv", "--baseline", "base", "--texts", "texts.jsonl", "--json", "a.json", "--csv", "a.csv")  # fmt: skip
    assert (code, err) == (0, "")
    fit = fit_items(tables / "own.csv", RUNS, baseline="base")
    found = json.loads((tables / "a.json").read_text())
    assert found["groups"][0]["both_high"] == pytest.approx(fit.table.at["t", "both_high"], rel=1e-12)  # fmt: skip
    assert [g["item"] for g in found["growing"]["t"]] == fit.growing("t")["item"].tolist()
    assert found["carriers"][0]["count"] == len(fit.carriers("t").items)
    rows = pd.read_csv(tables / "a.csv")
    assert rows["to_slope"].sum() == pytest.approx(fit.table.at["t", "delta_beta"])
    for line in found["words"]:
        assert line in out
    first = fit.growing("t", 1).iloc[0]
    assert (
        f"  {first['member']} {first['item']}: " in out and f"Question <t> {first['item']}?" in out
    )
    page = (tables / "own-items.html").read_text()
    assert f"Question &lt;t&gt; {first['item']}?" in page and "http" not in page
    assert verify_report(tables / "own-items.html").whole


def test_json_goes_to_the_terminal_alone(tables):
    code, out, err = told(tables, "own.csv", "--runs", "runs.csv", "--baseline", "base", "--json", "-", "--out", "p.html")  # fmt: skip
    assert code == 0 and json.loads(out)["baseline"] == "base" and "page: p.html" in err


def test_a_long_table_with_its_own_scale_needs_no_runs(tables):
    wide = pd.read_csv(tables / "own.csv")
    long = wide.melt(["group", "item", "member"], var_name="run_id").merge(RUNS)
    long.to_csv(tables / "long.csv", index=False)
    code, out, _ = told(tables, "long.csv", "--baseline", "base", "--only", "run_id=r1")
    assert code == 2
    told(tables, "long.csv", "--baseline", "base", "--json", "l.json")
    told(tables, "own.csv", "--runs", "runs.csv", "--baseline", "base", "--json", "w.json")
    long, wide = (json.loads((tables / f).read_text())["groups"] for f in ("l.json", "w.json"))
    assert long[0]["item_stderr"] == pytest.approx(wide[0]["item_stderr"], rel=1e-6)


def test_checkpoints_of_one_model_are_its_own_and_said(tables):
    runs = RUNS.assign(model=["a"] * 4 + ["b"] * 4, step=[1, 2, 3, 4] * 2)
    runs.to_csv(tables / "runs.csv", index=False)
    words = ["own.csv", "--runs", "runs.csv", "--baseline", "base", "--json", "a.json"]
    code, out, _ = told(tables, *words)
    assert code == 0 and "2 models, 8 runs" in out
    code, out, _ = told(tables, *words, "--models", "run_id")
    assert code == 0 and "checkpoints" not in out
    code, out, _ = told(tables, *words, "--only", "model=a")
    assert (
        code == 0
        and "all runs are checkpoints of a" in out
        and "no runs were not fitted" not in out
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["own.csv", "--baseline", "law", "--runs", "runs.csv"], "--baseline law: no such group"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--group", "x"], "--group x: no such group"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--group", "base"], "is the baseline"),
        (["own.csv", "--baseline", "base"], "--runs"),
        (["own.csv", "--baseline", "base", "--runs", "none.csv"], "none.csv: no such file"),
        (["own.csv", "--baseline", "base", "--runs", "own.csv"], "no column run_id"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--out", "p.pdf"], "--out p.pdf"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--csv", "own.csv"], "is the table that is read"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--csv", "runs.csv"], "is the table that is read"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--level", "95"], "--level"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--n-bootstrap", "3"], "--n-bootstrap"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--item", "id"], "own.csv: no column 'id'"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--cluster", "author"], "no column 'author'"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--member", "author"], "--member author"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--models", "author"], "runs.csv: no column 'author'"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--scale", "num_params"], "runs.csv: no column 'num_params'"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--only", "step"], "--only 'step'"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--only", "step=1"], "--only step=1: no such column"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--only", "run_id=x"], "no run of runs.csv has that"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--only", "run_id=r0"], ""),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--texts", "runs.csv"], "runs.csv: no column 'item'"),
        (["own.csv", "--baseline", "base", "--runs", "runs.csv", "--higher-is-better", "yes"], "own.csv: scores must lie between 0 and 1"),
        (["own.csv", "--runs", "runs.csv"], "--baseline"),
        (["own.csv", "--baselin", "base"], "did you mean --baseline?"),
    ],
)  # fmt: skip
def test_a_slip_of_the_command_is_one_line(tables, words, said):
    code, _, err = told(tables, *words)
    (line,) = err.splitlines()
    assert code == 2 and said in line and not list(tables.glob("*.html"))


def test_texts_match_by_the_keys_both_have():
    items = pd.DataFrame({"group": ["a", "b"], "item": [1, 1], "r0": [0.1, 0.2]})
    by_group = pd.DataFrame({"group": ["b", "a"], "item": ["1", "1"], "text": ["of b", "of a"]})
    assert add_texts(items, by_group)["text"].tolist() == ["of a", "of b"]
    assert add_texts(items, by_group.iloc[:1])["text"].tolist() == ["", "of b"]
    with pytest.raises(UserError, match="an item has two texts"):
        add_texts(items, by_group.drop(columns="group"))


def test_groups_without_members_or_a_gap_have_a_page(tmp_path):
    table = world(np.random.default_rng(9))
    same = table[table["group"] == "base"].assign(group="same")
    fit = fit_items(pd.concat([table, same]), RUNS, baseline="base", cluster="passage", **QUICK)
    assert set(choose_groups(fit)) == {"same", "t"}
    assert carrier_words(fit, "same") == []
    page = write_items(fit, tmp_path / "p.html").read_text()
    assert "Who carries t?" in page and "Who carries same?" not in page


def test_the_real_table_of_gemstones_goes_through_the_command(tmp_path):
    code, out, err = told(tmp_path, GEMSTONES / "items.parquet", "--runs", GEMSTONES / "runs.csv", "--baseline", "stem")  # fmt: skip
    assert (code, err) == (0, "")
    assert "22 models, 220 runs" in out and "Half of it by member: moral_scenarios, 1 of 13" in out
    assert (tmp_path / "items.html").stat().st_size > 100_000
    assert (
        len([line for line in out.splitlines() if " to " in line and line.startswith("  ")]) >= 20
    )

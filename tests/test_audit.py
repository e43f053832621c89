"""The audit of a table: ranges against a search of its own, coverage in tables whose law is known, and what cannot be said."""

import contextlib
import importlib.util
import io
import json

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest
from scipy.stats import t as student

import relscale as rs
from relscale.cli import main
from relscale.core import UserError, data_path
from relscale.laws.audit import audit_rows, span_of
from relscale.laws.compatible import compatible_ranges
from relscale.laws.floors import allowed_pairs
from relscale.laws.held_out import by_distance, least_coverage
from relscale.laws.relative import fit_relative
from relscale.manifest import verify_report

FLOPS = np.geomspace(1e18, 1e21, 9)


def table(noise=0.002, seed=0, floor=0.0, scales=FLOPS, groups=("code", "law")) -> pd.DataFrame:
    """Errors of a baseline and groups; the first group has a floor, a share of its first error."""
    rng, parts, n = np.random.default_rng(seed), [], len(scales)
    shared = noise * rng.standard_normal(n)
    for i, name in enumerate(("web", *groups)):
        low = floor if i == 1 else 0.0
        error = low + (1 - low) * (scales / scales.min()) ** -(0.06 + 0.01 * i)
        value = 3 * error * np.exp(shared + noise * rng.standard_normal(n))
        parts.append(pd.DataFrame({"group": name, "train_flops": scales, "value": value}))
    return pd.concat(parts, ignore_index=True)


def logs(rows: pd.DataFrame, *groups: str) -> list[np.ndarray]:
    wide = np.log(rows.pivot(index="train_flops", columns="group", values="value"))
    return [np.log(wide.index.to_numpy()), *(wide[g].to_numpy() for g in groups)]


# --- the range of compatible laws


def search(x, own, base, at, slow: bool) -> tuple[float, float]:
    """Ends of log G over all pairs of laws within t² of the best, by constrained search over all parameters."""
    pairs = allowed_pairs(x, own[None], base, 0.95)
    ratio, mean = pairs.variance[:, 0]
    bound, u, there = student.ppf(0.975, pairs.freedom[0]) ** 2, x - x.mean(), at - x.mean()

    def curve(p, u):  # log floor-like term, its fall, log gain, its fall
        return np.logaddexp(p[0] - (p[1] if slow else 0.0) * u, p[2] - p[3] * u)

    def misfit(p):
        a, b = own - curve(p[:4], u), base - curve(p[4:], u)
        return ((a - b) ** 2).sum() / ratio + (((a + b) / 2) ** 2).sum() / mean

    falls, p = [-np.polyfit(u, y, 1)[0] for y in (own, base)], []
    for y, fall in ((own, falls[0]), (base, falls[1])):
        p += [np.log(0.4) + y.min(), 0.3 * fall, np.log(np.exp(y.mean()) - 0.4 * np.exp(y.min())), fall / 0.6]  # fmt: skip
    starts = [p]
    bounds = []
    for y, fall in ((own, falls[0]), (base, falls[1])):
        bounds += [(y.min() - 8, y.max()), (0, 0.9 * fall), (y.min() - 8, y.max() + 8), (0, 3)]
    fits = [minimize(misfit, p, method="L-BFGS-B", bounds=bounds, options={"maxiter": 3000, "maxfun": 60000}) for p in starts]  # fmt: skip
    best = min(f.fun for f in fits)
    rule = {"type": "ineq", "fun": lambda p: (best + bound - misfit(p)) / bound}
    ends = []
    for sign in (1, -1):
        found = []
        for f in fits:
            done = minimize(lambda p, sign=sign: sign * (curve(p[:4], there) - curve(p[4:], there)), f.x, method="SLSQP", bounds=bounds,
                            constraints=[rule], options={"maxiter": 500, "ftol": 1e-10})  # fmt: skip
            if rule["fun"](done.x) > -1e-3:
                found.append(sign * done.fun)
        ends.append(min(found) if sign == 1 else max(found))
    return tuple(ends)


@pytest.mark.parametrize(
    ("kind", "slow", "floor"),
    [("floored", False, 0.0), ("floored", False, 0.5), ("two powers", True, 0.5)],
)
def test_the_range_is_that_of_a_search_over_all_parameters(kind, slow, floor):
    x, own, base = logs(table(floor=floor, seed=4), "code", "web")
    at = x.max() + np.log(10)
    ends = compatible_ranges(x, own, base, at)[kind]
    low, high = search(x, own, base, at, slow)
    room = (0.17 if slow else 0.02) * (high - low)  # slow exponents are tried on a coarse grid
    assert ends["low"][0] == pytest.approx(low, abs=room)
    assert ends["high"][0] == pytest.approx(high, abs=room)


def test_a_single_power_is_the_line_that_a_fit_gives():
    rows = table(seed=2)
    x, own, base = logs(rows, "code", "web")
    ends = compatible_ranges(x, own, base, np.log(1e22))["power"]
    law = fit_relative(rows, baseline="web").predict(1e22).set_index("group").loc["code"]
    assert np.exp([ends["value"][0], ends["low"][0], ends["high"][0]]) == pytest.approx(law[["ratio", "low", "high"]].to_numpy(float))  # fmt: skip


def test_a_planted_bend_admits_a_wide_range():
    """A floor of half the first error: the straight law is narrow and wrong, the range wide and right."""
    rows = table(floor=0.5, seed=1)
    found = audit_rows(rows, baseline="web", at=1e23)
    truth = 0.5 + 0.5 * 1e5**-0.07
    truth /= 1e5**-0.06
    answer = found.answers.loc["code"]
    assert answer["low"] <= truth <= answer["high"]
    assert not answer["power_low"] <= truth <= answer["power_high"] and answer["times_wider"] > 3
    clear = audit_rows(table(noise=5e-4, floor=0.5, seed=1), baseline="web")
    said = [w for w in clear.words() if "single power is contradicted" in w]
    assert said == ["A single power is contradicted for code: it bends within the data."]


# --- the span


def test_the_effective_span_gives_the_variance_of_the_slope():
    rng = np.random.default_rng(0)
    scales = np.exp(np.sort(rng.uniform(41, 48, 11)))
    span = span_of(fit_relative(table(scales=scales), baseline="web"))
    even = np.linspace(0, span.effective * np.log(10), 11)
    variance = [np.linalg.inv(np.array([np.ones(11), z]) @ np.array([np.ones(11), z]).T)[1, 1] for z in (even, np.log(scales))]  # fmt: skip
    assert variance[0] == pytest.approx(variance[1], rel=1e-9)
    assert span.decades == pytest.approx(np.log10(scales.max() / scales.min()))


# --- what was held out


def test_distances_are_known_before_the_outcome():
    found = audit_rows(table(), baseline="web")
    one = found.held[(found.held["unit"] == "1e+21") & (found.held["num_fitted"] == 4)].iloc[0]
    assert one["distance"] == pytest.approx(np.log10(FLOPS[-1] / FLOPS[3]))
    again = audit_rows(table(seed=9), baseline="web")
    assert again.held["distance"].to_list() == found.held["distance"].to_list()
    rows = pd.concat(table(scales=FLOPS * k, seed=i).assign(family=f) for i, (f, k) in enumerate({"a": 1.0, "b": 1.1, "c": 1e4}.items()))  # fmt: skip
    held = audit_rows(rows, baseline="web", by="family", family="family").held
    assert held[held["unit"] == "a"]["distance"].to_numpy() == pytest.approx(np.log10(1.1))
    assert held[held["unit"] == "c"]["distance"].max() == pytest.approx(np.log10(1e4 / 1.1))


def test_a_held_out_group_has_the_interval_of_one_more_draw():
    rows = table(groups=("a", "b", "c", "d", "e"))
    found = audit_rows(rows, baseline="web", by="group").held.set_index("group").loc["c"]
    slopes = fit_relative(rows, baseline="web").table["delta_beta"].drop("c")
    half = student.ppf(0.975, 3) * slopes.std() * np.sqrt(1.25)
    assert (found["new_low"], found["new_high"]) == pytest.approx((slopes.mean() - half, slopes.mean() + half))  # fmt: skip


@pytest.mark.parametrize(("held", "units"), [(9, 10), (18, 30), (31, 31), (0, 5)])
def test_the_least_coverage_is_the_exact_bound(held, units):
    exact = binomtest(held, units, alternative="greater").proportion_ci(0.95).low
    assert least_coverage(held / units, units) == pytest.approx(exact, abs=1e-9)


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_audit", data_path("audit/make.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_intervals_hold_what_they_say_in_tables_whose_law_is_known():
    """The shipped table, 100 tables a world; a forecast's interval may be wider than it must, and not narrower."""
    table = rs.read_table(data_path("audit/coverage.csv")).set_index("world")
    assert (table["tables"] == 100).all() and set(table.index) == {"power laws", "floors", "families"}  # fmt: skip
    for name in ("power laws", "families"):
        own = table.loc[[name]]
        assert (abs(own["inside_new"] - 0.95) < 3 * own["stderr_new"] + 0.01).all(), name
    assert (table["inside_far"] > 0.95 - 3 * table["stderr_far"]).all()


@pytest.mark.parametrize("name", ["power laws", "families"])
def test_some_tables_drawn_anew_agree(make, name):
    """Four tables a world: within three standard errors of 95 %."""
    world, by = make.WORLDS[name]
    held = make.held_in(world(), by, 4, seed=1)
    (row, *_) = make.coverage(held.assign(distance=0.0))
    assert abs(row["inside_new"] - 0.95) < 3 * max(row["stderr_new"], 0.03)


def test_intervals_that_are_too_narrow_are_called_so():
    """Scatter that is shrunk by half in the intervals, so that the audit must see it."""
    held = pd.concat(
        audit_rows(table(seed=s), baseline="web").held.assign(unit=f"{s}") for s in range(6)
    )
    half = np.log(held["far_high"] / held["far_low"]) / 2
    honest = by_distance(held, 0.95)
    tight = held.assign(far_low=held["predicted"] * np.exp(-0.15 * half), far_high=held["predicted"] * np.exp(0.15 * half))  # fmt: skip
    assert not honest.loc["all", "too_narrow"] and by_distance(tight, 0.95).loc["all", "too_narrow"]


# --- what cannot be said


def test_a_table_of_one_family_says_that_it_cannot_say():
    rows = table().assign(family="own")
    found = rs.audit(rows, baseline="web", by="family")
    assert found.held.empty and found.table.empty and len(found.ranges) == 6
    said = " ".join(found.doubts)
    assert "of other families nothing can be said" in said and "one value, 'own'" in said
    assert not any("Held out" in w for w in found.words())
    with pytest.raises(UserError, match="nothing could be held out"):
        found.plot()


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (table(), {"by": "family"}, "no column 'family'"),
        (table(), {"by": "corpus"}, "no column 'corpus'"),
        (table().assign(corpus=["a", "b", "b"] * 9), {"by": "corpus"}, "2 corpora: of other corpora nothing"),
        (table(scales=FLOPS[:4]), {}, "4 scales: none can be held out"),
        (table(scales=FLOPS[:4]), {}, "4 scales: laws with floors"),
        (table(), {"by": "group"}, "2 groups beside the baseline"),
    ],
)  # fmt: skip
def test_what_can_be_said_is_said(rows, options, said):
    if options.get("by") == "corpus" and "corpus" in rows:
        rows = pd.concat(table(scales=FLOPS * k, seed=k).assign(corpus=f"c{k}") for k in (1, 2))
    found = rs.audit(rows, baseline="web", **options)
    assert any(said in doubt for doubt in found.doubts), found.doubts
    assert any("decades" in w for w in found.words())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--by", "family", "--family", "make"], "no column 'make'"),
        (["--adjust", "bh"], "--adjust is for a fit"),
        (["--at", "-3"], "give a positive train_flops"),
        (["--out", "p.pdf"], "name it .html"),
        (["--level", "2"], "--level"),
        (["--by", "model"], "--by"),
    ],
)
def test_a_slip_is_one_line(tmp_path, words, said):
    table().to_csv(tmp_path / "own.csv", index=False)
    err = io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stderr(err):
        assert main(["audit", "own.csv", "--baseline", "web", *words]) == 2
    (line,) = err.getvalue().splitlines()
    assert said in line and not list(tmp_path.glob("*.html"))


def test_the_command_writes_a_page_that_is_made_again(tmp_path):
    wide = table().pivot(index="train_flops", columns="group", values="value").add_prefix("bpb_")
    wide.reset_index().to_csv(tmp_path / "own.csv", index=False)
    out = io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(out):
        assert main(["audit", "own.csv", "--baseline", "web", "--rename", "code=Code", "--json", "a.json"]) == 0  # fmt: skip
    told = json.loads((tmp_path / "a.json").read_text())
    again = rs.audit(tmp_path / "own.csv", baseline="web", renames={"code": "Code"})
    assert told["words"] == again.words() and all(w in out.getvalue() for w in told["words"])
    assert told["held"][0]["predicted"] == again.held["predicted"].iloc[0]
    page = (tmp_path / "own-audit.html").read_text()
    assert "Code" in page and "http" not in page and "<script" not in page
    assert verify_report(tmp_path / "own-audit.html").whole


def test_an_audit_goes_through_json_unharmed():
    found = audit_rows(table(), baseline="web")
    back = type(found).from_json(found.to_json())
    assert back.words() == found.words() and back.span == found.span
    pd.testing.assert_frame_equal(back.held, found.held)

"""The report: right verdicts on known laws, and a page that stands alone, escapes its data and never changes."""

import html
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from relscale.analysis import analyse, analyse_points, p_text, verdict_sentences
from relscale.core import UserError
from relscale.laws.simulate import Surface, simulate_suite
from relscale.report import design_of, write_report

# (bits per byte at a million parameters and tokens, exponent): delta_beta is half the exponents' difference
TRUTH = {
    "code": Surface(2.00, 0.20),
    "behind, faster": Surface(2.60, 0.26),
    "ahead, faster": Surface(1.30, 0.25),
    "behind, slower": Surface(2.30, 0.15),
    "ahead, slower": Surface(1.20, 0.15),
    "overtakes": Surface(2.02, 0.26),
}


@pytest.fixture(scope="module")
def suite():
    return simulate_suite(TRUTH, seed=3)


@pytest.fixture(scope="module")
def study(suite):
    return analyse(*suite, baseline="code")


def page(study, folder, **kwargs):
    return write_report(study, folder / "report.html", title="A title", **kwargs).read_text(
        encoding="utf-8"
    )


def test_verdicts_on_known_laws(study):
    """Rate and gap are two questions; each pair of answers that a law can give comes out."""
    table = study.summary()
    assert table[["verdict_rate", "verdict_gap"]].apply(tuple, axis=1).to_dict() == {
        "behind, faster": ("improves faster", "gap narrows"),
        "ahead, faster": ("improves faster", "gap widens"),
        "behind, slower": ("improves more slowly", "gap widens"),
        "ahead, slower": ("improves more slowly", "gap narrows"),
        "overtakes": ("improves faster", "crosses parity"),
    }
    for name, law in table.iterrows():
        truth = (TRUTH["code"].params_exponent - TRUTH[name].params_exponent) / 2
        # 0.002 a group and point, smoothed: a slope error near 0.0006; four of them, as five are tested
        assert abs(law["delta_beta"] - truth) < 0.0025, name


def test_sentences_say_who_is_ahead(study):
    said = dict(zip(study.summary().index, verdict_sentences(study), strict=True))
    assert "falls faster than on code" in said["ahead, faster"]
    assert "it is already the easier group, so the gap widens." in said["ahead, faster"]
    assert "it is the harder group, so the gap narrows." in said["behind, faster"]
    assert "it is already the harder group, so the gap widens." in said["behind, slower"]
    assert "it is the easier group, so the gap narrows." in said["ahead, slower"]
    assert "it starts harder than code and ends easier." in said["overtakes"]


def test_no_difference_is_unresolved_not_equal():
    runs, scores = simulate_suite({"code": Surface(2.0, 0.2), "news": Surface(2.1, 0.2)}, seed=1)
    study = analyse(runs, scores, baseline="code")
    assert study.summary().at["news", "verdict_rate"] == "unresolved"
    assert "5 budgets cannot tell" in verdict_sentences(study)[0]


def test_laws_table_is_tidy(study):
    laws = study.laws()
    assert laws.index.tolist() == ["code", *sorted(set(TRUTH) - {"code"})]
    wanted = "coefficient exponent exponent_stderr exponent_low exponent_high gamma delta_beta low high p_value p_adjusted"
    wanted += " ratio_start ratio_end percent_per_decade verdict"
    assert set(wanted.split()) <= set(laws.columns)
    assert np.isnan(laws.at["code", "delta_beta"])
    # with no floor the error falls as compute to the power -a/2; 0.01 is ten times the noise of a run
    exponents = laws["exponent"]
    for name, surface in TRUTH.items():
        assert abs(exponents[name] + surface.params_exponent / 2) < 0.01, name


def test_unfinished_runs_are_left_out_and_listed(suite, tmp_path):
    runs, scores = suite
    runs = runs.assign(status=np.where(runs["run_id"] == "c1e13-s1", "failed", "finished"))
    ruined = scores.assign(value=scores["value"].where(scores["run_id"] != "c1e13-s1", 99.0))
    study = analyse(runs, ruined, baseline="code")
    assert study.left_out["run_id"].tolist() == ["c1e13-s1"]
    assert study.rows["value"].max() < 90
    text = page(study, tmp_path)
    assert "c1e13-s1" in text and "1 left out" in text


def test_user_errors(suite):
    runs, scores = suite
    with pytest.raises(UserError, match="no baseline 'GB'.*code"):
        analyse(runs, scores, baseline="GB")
    with pytest.raises(UserError, match="2 budgets.*at least 3"):
        analyse(runs[runs["budget_flops"] < 5e12], scores, baseline="code")
    with pytest.raises(UserError, match="better when higher"):
        analyse(
            runs,
            scores.assign(metric="accuracy", higher_is_better=True),
            baseline="code",
            metric="accuracy",
        )
    with pytest.raises(UserError, match="overtakes"):
        analyse(runs, scores.drop(scores.index[scores["group"] == "overtakes"][3]), baseline="code")


def test_page_stands_alone(study, tmp_path):
    """No address, no script, no import; every reference is to an id of the page itself, and ids are unique."""
    import re

    text = page(
        study,
        tmp_path,
        lead="Why?",
        sections={"Plan": pd.DataFrame({"a": [1]}), "Machine": "two cores"},
    )
    assert (
        "http" not in text
        and "<script" not in text
        and "@import" not in text
        and "<link" not in text
    )
    assert not re.search(r"\ssrc=", text)
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    saved = re.findall(r'href="(data:text/plain[^"]+)"', text)
    assert len(saved) == text.count("download=") == 2 * text.count('<p class="save">') >= 8
    targets = re.findall(r'href="([^"]+)"', text) + re.findall(r"url\(([^)]+)\)", text)
    targets = [t for t in targets if t not in saved]
    assert targets and {t[0] for t in targets} == {"#"}
    assert {t[1:] for t in targets} <= set(ids)
    assert len(text.encode()) < 1_500_000


def saved_files(text):
    """What the links of a page save, by name."""
    import re
    from urllib.parse import unquote

    links = re.findall(r'download="([^"]+)" href="data:text/plain;charset=utf-8,([^"]+)"', text)
    return {name: unquote(content) for name, content in links}


def test_every_table_can_be_saved_from_the_page(study, tmp_path):
    """CSV keeps every digit; LaTeX has what is shown. Both are the numbers of the analysis."""
    import io

    plan = pd.DataFrame({"name": ["a,b_c", "50% & more"], "flops": [1 / 3, 2e18]})
    files = saved_files(page(study, tmp_path, sections={"Plan & price": plan}))
    stems = {"verdicts", "points-of-the-laws", "absolute-laws", "is-the-ratio-a-law", "plan-price"}
    assert {f"{s}.{end}" for s in stems for end in ("csv", "tex")} <= set(files)
    back = pd.read_csv(io.StringIO(files["plan-price.csv"]))
    pd.testing.assert_frame_equal(back, plan, check_exact=True)
    assert (
        "50\\% \\& more" in files["plan-price.tex"]
        and r"$2 \times 10^{18}$" in files["plan-price.tex"]
    )
    verdicts = pd.read_csv(io.StringIO(files["verdicts.csv"])).set_index("Group")
    laws = study.relative.summary()
    assert verdicts["Δβ"].to_dict() == laws["delta_beta"].to_dict()
    points = pd.read_csv(io.StringIO(files["points-of-the-laws.csv"]))
    assert points["Parameters"].tolist() == study.isoflop.optima["num_params"].tolist()
    for name, text in files.items():
        if name.endswith(".tex"):
            rows = [line for line in text.splitlines() if line.endswith(r" \\")]
            marks = text.partition("}{")[2].partition("}")[0]
            assert {row.replace(r"\&", "").count("&") + 1 for row in rows} == {len(marks)}, name
            assert text.isascii(), name


def test_a_table_wider_than_paper_is_printed_in_parts(tmp_path):
    """On paper nothing scrolls: each part repeats the first column, and all columns are there once."""
    import re

    groups = {f"g{k:02}": Surface(2.0 + k / 50, 0.2) for k in range(14)}
    study = analyse(*simulate_suite(groups, seed=1), baseline="g00")
    text = page(study, tmp_path)
    (paper,) = re.findall(r'<div class="paper">(.*?)</div>', text, re.DOTALL)
    parts = [re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", p) for p in paper.split("<table")[1:]]
    assert len(parts) > 1 and max(map(len, parts)) <= 9
    assert {part[0] for part in parts} == {"Budget (FLOPs)"}
    shown = [name for part in parts for name in part[1:]]
    assert len(shown) == len(set(shown)) and set(groups) <= set(shown)


def test_page_escapes_its_data(tmp_path):
    bad, formula = "<script>alert(1)</script>", "$\\frac$ & <b>"
    runs, scores = simulate_suite(
        {
            "a": Surface(2.0, 0.2),
            bad: Surface(2.5, 0.25),
            formula: Surface(2.2, 0.18),
            "x--><img>": Surface(2.4, 0.2),
        }
    )
    runs["suite"] = "<i>suite</i>"
    study = analyse(runs, scores, baseline="a")
    text = page(
        study,
        tmp_path,
        lead="<u>lead</u>",
        sections={"<em>": pd.DataFrame({"<s>": ["<q>"]}), "t": "<hr>"},
    )
    for tag in ("<script", "<b>", "<i>suite", "<u>", "<em>", "<s>", "<q>", "<hr>", "<img"):
        assert tag not in text, tag
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in study._repr_html_()
    swapped = page(analyse(runs, scores, baseline=bad), tmp_path)
    assert "<script" not in swapped


def test_equal_input_gives_equal_bytes(suite, study, tmp_path):
    """Also from shuffled rows, and under another figure style."""
    import matplotlib

    runs, scores = suite
    first = page(study, tmp_path)
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": None}):
        again = analyse(
            runs.sample(frac=1, random_state=1),
            scores.sample(frac=1, random_state=2),
            baseline="code",
        )
        assert page(again, tmp_path) == first


def test_budgets_without_a_minimum_are_flagged(suite, tmp_path):
    runs, scores = suite
    runs = runs[~runs["run_id"].isin(["c1e14-s2", "c1e14-s3", "c1e14-s4"])]
    text = page(analyse(runs, scores, baseline="code"), tmp_path)
    assert "too few: 2 " in text
    assert "1 of 5 budgets have no minimum" in text


@pytest.mark.parametrize("interval", ["t", "pairs"])
@pytest.mark.parametrize("how", ["smoothed", "nearest"])
def test_every_reading_makes_a_page(suite, tmp_path, interval, how):
    study = analyse(*suite, baseline="code", how=how, interval=interval, n_bootstrap=200)
    assert "How this was measured" in page(study, tmp_path)


def test_import_needs_no_jax_and_no_plotting():
    """Base install only; matplotlib, lmfit and jinja2 come when they are used."""
    code = "import sys, relscale.report; print([m for m in ('jax', 'matplotlib', 'lmfit', 'jinja2') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_the_page_puts_numbers_where_it_says(tmp_path):
    """Points of exact laws over three decades, one group rising: each number of the page is known beforehand."""
    flops = np.geomspace(1e18, 1e21, 7)
    laws = {"code": (2.0, -0.1), "news": (2.2, -0.101), "spam": (1.0, 0.05)}
    wiggle = 1e-3 * np.array([1, -2, 1, 0, 1, -2, 1])  # a scatter, so that P is a number
    rows = pd.concat(
        pd.DataFrame(
            {
                "group": g,
                "train_flops": flops,
                "value": a * (flops / 1e18) ** b * np.exp(i * wiggle),
            }
        )
        for i, (g, (a, b)) in enumerate(laws.items(), start=1)
    )
    study = analyse_points(rows, baseline="code")
    assert not any(
        "rises with" in w for w in study.warnings
    )  # one group that rises is no accuracy; all of them would be
    text = html.unescape(page(study, tmp_path))
    assert "over 3.0 decades of compute" in text
    assert "does not fall with compute at all on spam;" in text
    absolute = text.partition('<h2 id="laws">')[2].partition("</table>")[0]
    row = absolute.partition('<th scope="row">code</th>')[2].partition("</tr>")[0]
    cells = [float(c.rpartition(">")[2].replace("−", "-")) for c in row.split("</td>")[-3:-1]]
    assert cells == pytest.approx([2.0, 1.002], abs=0.01)  # smallest scale first; 2 * 1000**-0.1
    ps = study.relative.summary().loc["news", ["p_adjusted", "p_bootstrap"]]
    shown = text.partition('<th scope="row">news</th>')[2].partition("</tr>")[0]
    assert [c.rpartition(">")[2] for c in shown.split("</td>")[-3:-1]] == [p_text(p) for p in ps]
    assert p_text(ps.iloc[0]) != p_text(ps.iloc[1])


def test_the_macro_mean_is_a_mean():
    """Of skewed groups: a median would let one group choose the optimal model."""
    runs, scores = simulate_suite(TRUTH, seed=3)
    study = analyse(runs, scores, baseline="code")
    means = scores.groupby("run_id")["value"].mean()
    used = study.isoflop.rows.set_index("run_id")["macro_mean_bits_per_byte"]
    assert used.to_numpy() == pytest.approx(means[used.index].to_numpy(), rel=1e-12)


def test_the_page_says_what_the_design_can_tell_of_size_and_tokens(study, tmp_path):
    per = study.rows.drop_duplicates("run_id").eval("num_tokens / num_params")
    text = page(study, tmp_path)
    assert f"{per.min():.3g} to {per.max():.3g}, at the optima" in text
    assert "could be told from this table" in text and design_of(study).doubts == []
    size = np.geomspace(1e8, 1e10, 5)
    points = pd.DataFrame({
        "group": np.repeat(["web", "code"], 5), "train_flops": np.tile(120 * size**2, 2), "num_params": np.tile(size, 2),
        "num_tokens": np.tile(20 * size, 2), "value": np.concatenate([3 * size**-0.05, 2 * size**-0.06]),
    })  # fmt: skip
    ladder = analyse_points(points, baseline="web")
    text = page(ladder, tmp_path)
    assert "<dd>20 to 20</dd>" in text and "Tokens follow size exactly" in text
    bare = analyse_points(points.drop(columns="num_tokens"), baseline="web")
    assert design_of(bare) is None and "Tokens a parameter" not in page(bare, tmp_path)
    zero = analyse_points(points.assign(num_tokens=0), baseline="web")
    assert design_of(zero) is None

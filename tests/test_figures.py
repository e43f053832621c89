"""Figures for print: legible, told apart in grey, the same bytes twice, and true to their tables."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from relscale.analysis import analyse, analyse_points
from relscale.core import UserError
from relscale.figures import (
    explained_variance,
    figure_case_studies,
    figure_compute_optimal,
    save_figure,
)
from relscale.laws.contrasts import fit_covariate
from relscale.laws.curves import fit_power_law
from relscale.laws.forecast import fit_forecast
from relscale.laws.simulate import Design, Surface, simulate_suite
from relscale.panels import (
    figure_domains,
    figure_formats,
    figure_loss_to_accuracy,
    figure_optimizers,
    figure_regions,
    figure_risks,
    figure_size_and_data,
    figure_task_laws,
)
from relscale.sheets import figure_faults
from relscale.style import GREY, OKABE_ITO, group_style, hold_colors, use_style

NAMES = ("base", "one", "two", "three", "four", "five")


@pytest.fixture(scope="module")
def suite():
    """Runs and scores of a simulated suite of six groups."""
    surfaces = {name: Surface(2.0 + 0.1 * i, 0.1 + 0.004 * i) for i, name in enumerate(NAMES)}
    return simulate_suite(surfaces, Design(budgets=tuple(np.geomspace(1e18, 1e20, 5)), num_sizes=5))


@pytest.fixture(scope="module")
def study(suite):
    return analyse(*suite, baseline="base")


@pytest.fixture(scope="module")
def points():
    """Rows of accuracy by loss by compute, and of two prompt formats."""
    flops, rng = np.geomspace(1e18, 1e21, 12), np.random.default_rng(0)
    loss = 2 * (flops / 1e18) ** -0.08
    score = 0.25 + 0.75 / (1 + np.exp(4 * (loss - 1.4))) + 0.004 * rng.normal(size=12)
    return pd.DataFrame({"run_id": range(12), "train_flops": flops, "loss": loss, "score": score})


def along(scale, fixed):
    """Points in one scale at a fixed other."""
    values = np.geomspace(1e8, 1e10, 5)
    parts = [
        pd.DataFrame(
            {
                "group": g,
                scale: values,
                fixed: 1e9,
                "value": (3 + 0.1 * i) * (values / 1e8) ** (-0.1 - 0.004 * i),
            }
        )
        for i, g in enumerate(NAMES)
    ]
    return analyse_points(pd.concat(parts), baseline="base", scale=scale, metric="bits_per_byte")


def draw(name, width, study, points):
    """One of the ten figures."""
    three = {"A": study, "B": study, "C": study}
    if name == "case_studies":
        return figure_case_studies(three, width=width)
    if name == "compute_optimal":
        law = fit_power_law(study.isoflop.optima, scale="train_flops", error="loss")
        forecast = fit_forecast(points[:-2], chance=0.25)
        return figure_compute_optimal(
            study.isoflop, law, forecast, held_out=points[-2:], width=width
        )
    if name == "formats":
        rows = pd.concat(
            [
                points.assign(prompt_format=f, score=points["score"] - d)
                for f, d in (("x", 0), ("y", 0.02))
            ]
        )
        return figure_formats(
            rows, reference="y", error="loss", score="score", chance=0.25, width=width
        )
    if name == "domains":
        return figure_domains(three, width=width)
    if name == "risks":
        return figure_risks({"A": study}, sign="G", width=width)
    if name == "regions":
        known = {g: float(i * i) for i, g in enumerate(NAMES[1:])}
        fit = fit_covariate(study.relative, known, name="a number")
        return figure_regions({"A": study, "B": study}, dict.fromkeys("AB", fit), width=width)
    if name == "size_and_data":
        return figure_size_and_data(
            along("num_params", "num_tokens"), along("num_tokens", "num_params"), width=width
        )
    if name == "optimizers":
        return figure_optimizers(study, width=width)
    many = [f"task {i}" for i in range(5)]
    if name == "task_laws":
        law = fit_power_law(points, scale="train_flops", error="loss")
        return figure_task_laws(dict.fromkeys(many, law), width=width)
    forecast = fit_forecast(points, chance=0.25)
    return figure_loss_to_accuracy(dict.fromkeys(many, forecast), width=width)


FIGURES = (
    "case_studies", "compute_optimal", "formats", "domains", "regions", "size_and_data", "risks", "optimizers",
    "task_laws", "loss_to_accuracy",
)  # fmt: skip


@pytest.mark.parametrize("width", ["page", "column"])
@pytest.mark.parametrize("name", FIGURES)
def test_a_reader_trips_over_nothing(name, width, study, points):
    """No text overlaps, leaves the sheet or is under 7 points, and no two series are alike in grey."""
    figure = draw(name, width, study, points)
    assert figure_faults(figure) == []
    assert figure.get_size_inches()[0] == {"page": 7.0, "column": 3.4}[width]


def rendered(style):
    """A line of one group as grey pixels, drawn as in print at 150 dots an inch."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(1.6, 0.25), dpi=150)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.plot([0, 1, 2, 3], [0, 0, 0, 0], linewidth=1.4, markersize=4, **style)
    ax.axis("off")
    figure.savefig(drawn := io.BytesIO(), format="png")
    return np.asarray(Image.open(drawn).convert("L"), dtype=float)


def test_eight_groups_are_told_apart_on_a_grey_printer():
    """Mean difference of two rasters, in units of the fainter one's ink.

    The closest pair, green and olive, differs by 0.4; one marker and dash in two colors that are alike in
    grey, blue and olive, by 0.07. A quarter stands between them.
    """
    pictures = [rendered(s) for s in group_style(map(str, range(8))).values()]
    for i, one in enumerate(pictures):
        for two in pictures[i + 1 :]:
            least = min((255 - one).mean(), (255 - two).mean())
            assert np.abs(one - two).mean() > 0.25 * least
    same = [rendered({"color": OKABE_ITO[i], "marker": "o", "linestyle": "-"}) for i in (0, 6)]
    assert np.abs(same[0] - same[1]).mean() < 0.25 * (255 - same[0]).mean()


def test_a_group_has_one_style_whatever_is_drawn():
    """Any subset in any order, of more groups than there are colors; held names go before all others."""
    everyone = [f"g{i}" for i in range(40)]
    whole = group_style(everyone)
    some = [everyone[i] for i in (35, 9, 3, 0)]
    assert group_style(some, among=everyone) == {g: whole[g] for g in some}
    with hold_colors(everyone):
        assert group_style(some) == {g: whole[g] for g in some}
        assert group_style(["x", "y"]) == dict(zip("xy", group_style("ab").values(), strict=True))
        with hold_colors(["late"]):
            assert group_style(["late", "g0"])["g0"] == whole["g0"]
    assert group_style(some)["g35"] == whole["g0"]


def test_the_colors_of_a_session(monkeypatch):
    import matplotlib

    monkeypatch.setattr(matplotlib, "rcParams", matplotlib.rcParams.copy())
    try:
        use_style(groups=["a", "b", "c"])
        assert group_style("cb")["c"]["color"] == OKABE_ITO[2]
        assert group_style("zc")["z"]["color"] == OKABE_ITO[3]  # the first place that is free
    finally:
        use_style()
    assert group_style("cb")["c"]["color"] == OKABE_ITO[0]


def test_no_two_of_thirty_two_groups_look_alike():
    """Eight colors, then grey; marker and dash together are never the same, so no color is needed."""
    styles = list(group_style(range(33)).values())
    assert len({(s["marker"], s["linestyle"]) for s in styles}) == 33
    assert [s["color"] for s in styles] == [*OKABE_ITO, *[GREY] * 25]


def colors_of(ax):
    """Color of each name at the end of a line of an axes."""
    return {t.get_text(): t.get_color() for t in ax.texts if t.get_text() in NAMES}


def test_one_color_a_group_across_the_panels_of_a_figure(study, suite):
    """The second suite lacks a group, so those behind it have another place than in the first."""
    runs, scores = suite
    other = analyse(runs, scores[scores["group"] != "four"], baseline="base")
    places = [list(a.groups).index("two") for a in (study, other)]
    assert places[0] != places[1]
    ours = colors_of(figure_optimizers(study).axes[1])
    for figure in (
        figure_domains({"A": study, "B": other}),
        figure_case_studies({"A": study, "B": other}),
    ):
        for ax in figure.axes:
            shown = colors_of(ax)
            assert shown == {name: ours[name] for name in shown}


def test_simulated_suites_say_so_and_others_do_not(study, points):
    def said(figure):
        return [t.get_text() for t in figure.texts if "simulated" in t.get_text()]

    assert said(figure_domains({"A": study})) == ["simulated suite, not a measurement"]
    assert said(draw("size_and_data", "page", study, points)) == []


def test_points_are_the_tables(study):
    """Markers of the relative panels stand at 1 - G, in the color of their group."""
    ax = figure_case_studies({"A": study}).axes[0]
    drawn = {
        line.get_color(): line.get_ydata() for line in ax.get_lines() if line.get_marker() != "None"
    }
    table = study.relative.points
    for name, style in group_style(list(study.relative.table.index)).items():
        own = table[table["group"] == name]
        np.testing.assert_allclose(drawn[style["color"]], own["one_minus_ratio"], rtol=1e-12)


def test_what_a_panel_of_a_format_says(study, points):
    """Format x scores 0.02 above the reference y; the explained variance is the squared correlation of logs."""
    figure = draw("formats", "page", study, points)
    said = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert sum("+0.020 on y" in text for text in said) == 1
    rng = np.random.default_rng(0)
    rows = points.assign(loss=points["loss"] * np.exp(0.05 * rng.normal(size=12)))
    law = fit_power_law(rows, scale="train_flops", error="loss")
    r = np.corrcoef(np.log(rows["train_flops"]), np.log(rows["loss"]))[0, 1]
    assert explained_variance(law) == pytest.approx(r**2, rel=1e-6) and r**2 < 0.97


def test_compared_panels_share_their_range(study, suite):
    runs, scores = suite
    worse = analyse(runs, scores.assign(value=scores["value"] * 3), baseline="base")
    figure = figure_domains({"A": study, "B": worse})
    ranges = [ax.get_ylim() for ax in figure.axes]
    assert ranges[0] == ranges[1] and ranges[2] == ranges[3] and ranges[0] != ranges[2]


def test_files_have_no_date_and_the_same_bytes_in_another_process(tmp_path):
    """Two processes, half a second and more apart; PDF, SVG and PNG."""
    code = (
        "import sys, numpy as np, pandas as pd\n"
        "from relscale.figures import save_figure; from relscale.panels import figure_task_laws\n"
        "from relscale.laws.curves import fit_power_law\n"
        "rows = pd.DataFrame({'x': [1e18, 1e19, 1e20], 'y': [3.0, 2.5, 2.2]})\n"
        "save_figure(figure_task_laws({'a': fit_power_law(rows, scale='x', error='y')}), sys.argv[1] + '/own')"
    )
    sums = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        subprocess.run([sys.executable, "-c", code, str(tmp_path / folder)], check=True)
        files = sorted((tmp_path / folder).iterdir())
        assert [f.name for f in files] == ["own.pdf", "own.png", "own.svg"]
        assert not any(
            b"/CreationDate" in f.read_bytes() or b"dc:date" in f.read_bytes() for f in files
        )
        sums.append([hashlib.sha256(f.read_bytes()).hexdigest() for f in files])
    assert sums[0] == sums[1]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, study):
    figure, path = figure_optimizers(study), tmp_path / "own.png"
    save_figure(figure, path)
    before = path.read_bytes()
    figure.savefig = lambda *a, **k: (_ for _ in ()).throw(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_names_are_no_formulas(suite):
    runs, scores = suite
    odd = scores.assign(group=scores["group"].replace({"one": "$x_1$ and $"}))
    figure = figure_case_studies({"100 $": analyse(runs, odd, baseline="base")})
    assert figure_faults(figure) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, p: figure_domains({}), "no analysis"),
        (lambda s, p: figure_domains({"A": s}, sign="ratio"), "choose 'G' or '1-G'"),
        (lambda s, p: figure_domains({"A": s}, width="poster"), "choose 'page'"),
        (lambda s, p: figure_domains({"A": s, "B": along("num_params", "num_tokens")}), "differ in scale"),
        (lambda s, p: figure_regions({"A": s}, {}), "name them alike"),
        (lambda s, p: figure_size_and_data(s, s), "scale='num_params'"),
        (lambda s, p: figure_formats(p, reference="x"), "lack prompt_format"),
        (lambda s, p: figure_loss_to_accuracy({"a": fit_forecast(p)}, held_out={"b": p}), "held_out names 'b'"),
        (lambda s, p: save_figure(figure_optimizers(s), "own.gif"), "end it in .pdf"),
    ],
)  # fmt: skip
def test_slips_are_answered(call, words, study, points):
    with pytest.raises(UserError, match=words.replace("'", ".")):
        call(study, points)

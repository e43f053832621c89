"""The paper's figures from real tables: every number is there, names its data and study, and no panel is simulated."""

from pathlib import Path

import pytest
from matplotlib.text import Text

from relscale.core import UserError
from relscale.paper_figures import FIGURES, draw_figures
from relscale.sheets import figure_faults
from relscale.suites import suite_names

NBS = Path(__file__).resolve().parent.parent / "nbs"


def test_every_figure_names_what_it_is_drawn_from():
    assert [f.number for f in FIGURES] == ["1", "2", "3", "4", "5", "6", "7", "A.1", "A.2", "A.3", "A.4"]  # fmt: skip
    for figure in FIGURES:
        named = set(figure.suites.split(", ")) - {"none", "internet_users"}
        assert named <= set(suite_names()), figure.number
        if NBS.is_dir():
            assert (NBS / figure.study).is_file(), figure.study


@pytest.mark.parametrize("number", ["1", "7", "A.1", "A.4"])
def test_a_figure_is_legible_and_measured(number):
    drawn = next(f for f in FIGURES if f.number == number).draw()
    assert figure_faults(drawn) == []
    assert not any("simulated" in text.get_text() for text in drawn.findobj(Text))


def test_files_of_one_figure(tmp_path):
    said = []
    paths = draw_figures(tmp_path / "out", ["A.4"], progress=said.append)
    assert [p.name for p in paths] == ["figure_A.4.pdf", "figure_A.4.svg", "figure_A.4.png"]
    assert all(p.stat().st_size > 1000 for p in paths) and said[0].startswith("figure A.4")
    with pytest.raises(UserError, match=r"no figure '8': there are 1, 2"):
        draw_figures(tmp_path, ["8"])

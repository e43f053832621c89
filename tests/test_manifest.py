"""Every page says how it was made, and `relscale verify` makes it again: each kind of page, and each kind of change."""

import contextlib
import dataclasses
import html
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale import manifest
from relscale.cli import COMMANDS, _parse, main
from relscale.compare_command import CompareCommand
from relscale.core import UserError, hash_file
from relscale.laws.simulate import Surface, simulate_suite
from relscale.manifest import Origin, add_manifest, command_words, read_manifest, verify_report
from relscale.table_commands import FitCommand, TableChoices

FLOPS = np.geomspace(1e18, 1e21, 6)


def evals(lead: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    laws = {"usa": (2.0, -0.05), "india": (2.4, -0.065), "kenya": (2.6, -0.04)}
    parts = [
        {"country": g, "train_flops": FLOPS, "loss": a * (FLOPS * lead / 1e18) ** b * np.exp(0.002 * rng.normal(size=6))}
        for g, (a, b) in laws.items()
    ]  # fmt: skip
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True)


def told(folder, *words) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        return main([*map(str, words)]), out.getvalue()


@pytest.fixture(scope="module", autouse=True)
def once():
    """A command is run again once for all tests of its page: what it gives is kept."""
    kept, run = {}, manifest._run_again

    def cached(made, sources):
        key = (made.origin.command, tuple(sorted(made.origin.inputs.items())))
        if key not in kept:
            kept[key] = run(made, sources)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_run_again", cached)
        yield


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Tables, and a page of each kind."""
    folder = tmp_path_factory.mktemp("manifest")
    evals().to_csv(folder / "evals.csv", index=False)
    for name, lead in (("old", 1.0), ("new", 1.4)):
        (folder / name).mkdir()
        evals(lead).to_csv(folder / name / "own.csv", index=False)
    (folder / "suite").mkdir()
    surfaces = {"code": Surface(1.3, 0.25), "text": Surface(2.0, 0.2)}
    for name, table in zip(("runs", "scores"), simulate_suite(surfaces), strict=True):
        table.to_csv(folder / "suite" / f"{name}.csv", index=False)
    lines = [
        ("fit", "evals.csv", "--baseline", "usa", "--map", "group=country", "--out", "fit.html"),
        ("compare", "old/own.csv", "new/own.csv", "--map", "group=country", "value=loss", "--out", "two.html"),
        ("report", "suite", "--baseline", "code", "--random-seed", "7"),
    ]  # fmt: skip
    for words in lines:
        code, out = told(folder, *words)
        assert code == 0, out
    return folder


@pytest.mark.parametrize("page", ["fit.html", "two.html", "suite/report.html"])
def test_a_page_is_made_again_to_the_last_digit(desk, page):
    before = {p: p.read_bytes() for p in desk.rglob("*") if p.is_file()}
    code, out = told(desk, "verify", page)
    assert code == 0 and "made again, equal to the last digit" in out, out
    assert "whole: page made again" in out and out.strip().endswith(f"{page}: verified; {out.count('whole: ')} parts")  # fmt: skip
    assert {p: p.read_bytes() for p in desk.rglob("*") if p.is_file()} == before
    made = read_manifest(desk / page)[0]
    assert made.origin.inputs and str(desk) not in (desk / page).read_text()
    text = html.unescape((desk / page).read_text())
    assert all(digest in text for digest in made.origin.inputs.values())


def test_a_cell_that_changed_is_found_in_the_table_and_in_the_page(desk, tmp_path):
    page = tmp_path / "fit.html"
    text = (desk / "fit.html").read_text()
    table = evals()
    table.loc[7, "loss"] *= 1 + 1e-12
    table.to_csv(tmp_path / "evals.csv", index=False)
    page.write_text(text)
    found = verify_report(page)
    assert found.table.set_index("part")["state"].to_dict() == {
        "page": "whole", "input evals.csv": "damaged", "numbers": "unknown"
    }  # fmt: skip
    assert not found.whole and "not verified" in found.sentence()
    page.write_text(text.replace("improves", "worsens", 1) if "improves" in text else text.replace("falls", "rises", 1))  # fmt: skip
    assert verify_report(page, inputs=desk).table["state"].to_list()[0] == "damaged"


def forge(text: str, change, page_too: str = "") -> str:
    """A page whose manifest was changed and sealed anew."""
    from relscale.manifest import _DATA, _PART, sealed, unsealed

    value = unsealed(json.loads(html.unescape(_DATA.search(text)[1])))
    rest = _PART.sub("", text)
    if page_too:
        rest = rest.replace(*page_too.split("|"), 1)
        import hashlib

        value["page"] = hashlib.sha256(rest.encode()).hexdigest()
        text = text.replace(*page_too.split("|"), 1)
    change(value)
    data = html.escape(json.dumps(sealed(value), ensure_ascii=False), quote=False)
    return _DATA.sub(lambda _: f'<template id="manifest-data">{data}</template>', text)


def test_one_digit_of_one_number_is_found(desk):
    def nudge(value):
        laws = value["numbers"]["laws"]
        at = laws["columns"].index("delta_beta")
        laws["rows"][1][at] = float(np.nextafter(laws["rows"][1][at], 1))

    page = desk / "nudged.html"
    page.write_text(forge((desk / "fit.html").read_text(), nudge))
    found = verify_report(page)
    row = found.differences.iloc[0]
    assert len(found.differences) == 1 and (row["name"], row["column"]) == ("laws", "delta_beta")
    assert 0 < row["relative"] < 1e-15 and not found.whole


def test_a_page_whose_words_were_forged_with_its_seals_is_found(desk):
    page = desk / "forged.html"
    text = (desk / "fit.html").read_text()
    word = "faster" if "faster" in text else "slowly"
    page.write_text(forge(text, lambda value: None, f"{word}|sooner"))
    found = verify_report(page).table.set_index("part")["state"]
    assert found["page"] == "whole" and found["page made again"] == "damaged"


def test_what_cannot_be_made_again_is_said(desk, tmp_path, capsys):
    import relscale as rs

    study = rs.fit(evals(), baseline="usa", columns={"group": "country"})
    rs.write_report(study, tmp_path / "own.html", title="t")
    found = verify_report(tmp_path / "own.html")
    assert found.table["state"].to_list() == ["whole", "unknown"] and not found.whole
    (tmp_path / "fit.html").write_text((desk / "fit.html").read_text())
    found = verify_report(tmp_path / "fit.html")
    assert found.table.set_index("part").loc["input evals.csv", "state"] == "missing"
    assert verify_report(tmp_path / "fit.html", inputs=desk).whole
    for words, said in (
        (("absent.html",), "no such file"),
        (("own.html", "--repair"), "--repair is for stores"),
        ((".", "--inputs", "."), "is for a page of results"),
    ):
        code, out = told(tmp_path, "verify", *words)
        assert code == 2 and said in out and len(out.splitlines()) == 1
    (tmp_path / "plain.html").write_text("<html></html>")
    with pytest.raises(UserError, match="no manifest in it"):
        verify_report(tmp_path / "plain.html")


def test_words_of_a_command_are_read_back_as_the_command():
    made = FitCommand(
        Path("a b.csv"), "usa", TableChoices(map=("value=loss",), only=("task=x y",), level=0.9, pair_runs=True, units=("num_params=millions",))
    )  # fmt: skip
    assert _parse(command_words("fit", made)) == made
    two = CompareCommand(Path("a.csv"), Path("b.csv"), floor="-1", level=0.8, match=1e-2)
    assert _parse(command_words("compare", two)) == two
    for kind in COMMANDS.values():  # every field is one that the words can hold
        assert dataclasses.is_dataclass(kind)


def test_names_in_a_manifest_are_data():
    bad = '</template><script>alert("1")</script>'
    frame = pd.DataFrame({bad: [bad]})
    text = add_manifest("<main><footer></footer></main>", {bad: frame}, Origin((bad,), {bad: bad}))
    assert "<script" not in text and text.count("</template>") == 1


def test_a_study_says_which_command_gives_its_numbers(tmp_path, monkeypatch):
    """The page is the study's; its numbers are those of its two tables alone."""
    from relscale import study
    from relscale.suites import load_scores, load_suite
    from relscale.tables import write_table

    runs, scores = load_suite("laptop"), load_scores("laptop")
    write_table(runs, tmp_path / "runs.parquet")
    write_table(scores, tmp_path / "scores.parquet")
    monkeypatch.setattr(study, "report_sections", lambda out, config: {})
    config = study.StudyConfig(interval="pairs", n_bootstrap=400, seed=5)
    study.draw_study(tmp_path, config)
    made = read_manifest(tmp_path / "report.html")[0]
    assert made.origin.seed == 5 and not made.origin.exactly
    assert made.origin.inputs[f"{tmp_path.name}/runs.parquet"] == hash_file(tmp_path / "runs.parquet")  # fmt: skip
    drawn = []
    monkeypatch.setattr("relscale.report.write_report", lambda analysis, *a, **k: drawn.append(analysis))  # fmt: skip
    assert told(tmp_path.parent, *made.origin.command)[0] == 0
    laws = manifest.plain_frames({"laws": drawn[0].laws().reset_index()})
    assert not manifest._differences(made.numbers, laws)


def test_a_table_is_no_page_and_no_store(tmp_path, capsys):
    from relscale.cli import main

    (tmp_path / "evals.csv").write_text("group,value\n")
    assert main(["verify", str(tmp_path / "evals.csv")]) != 0
    said = capsys.readouterr().err
    assert "give a store's folder, or a page of results, .html" in said and said.count("\n") == 1

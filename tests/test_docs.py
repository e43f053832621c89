"""The README and the site are made from the notebooks: what is shown, and that nothing is lost."""

import base64
import itertools
import json
import struct
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbdev", reason="docs are built with the extra `dev`")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import build  # noqa: E402
import cells  # noqa: E402
import hook  # noqa: E402
import links  # noqa: E402
import readme  # noqa: E402
import reference  # noqa: E402

IDS = itertools.count()
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FRAME = (
    '<div><style scoped>p {}</style><table border="1" class="dataframe"><thead>'
    '<tr><th></th><th colspan="2">loss</th></tr><tr><th>group</th><th>a|b</th><th>c</th></tr>'
    '</thead><tbody><tr><th rowspan="2">x</th><td>1.5</td><td>2</td></tr>'
    "<tr><td>-3</td><td>4e-7</td></tr></tbody></table><p>2 rows × 2 columns</p></div>"
)


def markdown(source):
    return {"cell_type": "markdown", "id": f"m{next(IDS)}", "metadata": {}, "source": source}


def code(source, *outputs):
    return {
        "cell_type": "code",
        "id": f"c{next(IDS)}",
        "metadata": {},
        "execution_count": None,
        "source": source,
        "outputs": list(outputs),
    }


def stream(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def display(**data):
    data = {k.replace("_", "/"): v for k, v in data.items()}
    return {"output_type": "display_data", "data": data, "metadata": {}}


@pytest.fixture
def tree(tmp_path):
    """A project of one small notebook."""
    path = tmp_path / "nbs/index.ipynb"
    path.parent.mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/README.md").write_text("a card")
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text())
    notebook_cells = [
        markdown("# Title\n\n> Subtitle\n\n[Plan](03_plan.ipynb#x), [data](../data/README.md),"),
        markdown("[web](https://example.org/a.ipynb), [here](#top) and `[code](03_plan.ipynb)`"),
        code("# | default_exp index"),
        code("# | hide\nhidden_call()", stream("hidden output")),
        code("# | export\ndef exported(): ..."),
        code("# | echo: false\nsilent_call()", stream("heard\n")),
        code("#| output: false\nquiet_call()", stream("not heard")),
        code("# | include: false\nabsent_call()"),
        code("shown_call()  # a comment | stays", stream("\x1b[31mred\x1b[0m\n")),
        code("table", display(text_html=FRAME, text_plain="plain")),
        markdown("## A picture"),
        code(
            "# | fig-alt: One dot\nplot()",
            display(image_png=base64.b64encode(PIXEL).decode(), text_plain="<Figure>"),
        ),
        code("plot()", display(image_png=base64.b64encode(PIXEL).decode())),
    ]
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": notebook_cells}
    path.write_text(json.dumps(notebook))
    return tmp_path


def test_readme_shows_what_the_directives_allow(tree):
    text, files = readme.make_readme(tree / "nbs/index.ipynb", tree)
    assert text.startswith("<!-- Made from nbs/index.ipynb by docs/readme.py")
    for gone in ("hidden", "exported", "silent_call", "not heard", "absent", "\x1b", "# |", "#|"):
        assert gone not in text, gone
    for there in ("    heard", "quiet_call()", "shown_call()  # a comment | stays", "    red"):
        assert there in text, there
    assert "[Plan](nbs/03_plan.ipynb#x), [data](data/README.md)" in text
    assert "[web](https://example.org/a.ipynb), [here](#top) and `[code](03_plan.ipynb)`" in text
    assert "![One dot](docs/images/index_1.png)" in text
    assert "![Figure: A picture](docs/images/index_2.png)" in text
    assert files == {f"docs/images/index_{i}.png": PIXEL for i in (1, 2)}
    assert "```python\n```" not in text and "```python\n\n```" not in text  # no empty boxes


def test_tables_become_pipe_tables(tree):
    text, _ = readme.make_readme(tree / "nbs/index.ipynb", tree)
    table = (
        "| group | loss a\\|b | loss c |\n|---|---:|---:|\n| x | 1.5 | 2 |\n| x | -3 | 4e-7 |\n\n"
        "2 rows × 2 columns"
    )
    assert table in text
    assert "<table" not in text


def test_ragged_table_falls_back_to_text():
    assert (
        cells.table_markdown("<table><tr><td>1</td></tr><tr><td>1</td><td>2</td></tr></table>")
        is None
    )


def test_readme_is_stable_and_knows_when_it_is_stale(tree):
    notebook = tree / "nbs/index.ipynb"
    assert readme.make_readme(notebook, tree) == readme.make_readme(notebook, tree)
    left_over = tree / "docs/images/index_9.png"
    left_over.parent.mkdir(parents=True)
    left_over.write_bytes(PIXEL)
    images = ["docs/images/index_1.png", "docs/images/index_2.png"]
    assert readme.stale(notebook, tree) == ["README.md", *images, "docs/images/index_9.png"]
    readme.write(notebook, tree)
    assert readme.stale(notebook, tree) == []
    assert not left_over.exists()
    (tree / images[0]).write_bytes(b"other")
    assert readme.stale(notebook, tree) == images[:1]


def test_printed_sentences_wrap_and_tables_do_not():
    sentence = (
        "A relative law for books? yes: no departure from a straight line beyond chance (P 0.37)."
    )
    table = "books   improves faster  gap widens        0.9776     0.9054              -3.276"
    page = f'<div data-mime-type="text/plain">\n<pre>{{}}</pre></div>\n<pre>{sentence}</pre>'
    before = page.format(f"{table}\n\n{sentence}\n  {sentence}\n")
    after = page.format(f'{table}\n\n<span class="sentence">{sentence}</span>\n  {sentence}\n')
    assert hook.fold_sentences(before) == after
    for value in (f"[Window({'1' * 40}),", f"array([{'1' * 40},", f"|{'-' * 40}|"):  # goes on below
        assert hook.fold_sentences(page.format(value)) == page.format(value)
    row = f"<td>-0.014467</td><td>{'x' * 50}</td><td{{}}>{sentence}</td>"
    assert hook.fold_sentences(row.format("")) == row.format(' class="sentence"')


def test_a_row_of_panels_is_named_wide_and_a_small_picture_is_not():
    def shown(width):
        header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, 300) + bytes(40)
        page = f'<img class="" src="data:image/png;base64,{base64.b64encode(header).decode()}">'
        return hook.PICTURE.sub(hook.mark_wide, page)

    assert shown(hook.WIDE + 1).startswith('<img data-wide class=""')
    assert "wide" not in shown(hook.WIDE)


def frame(names, *cells):
    head = "".join(f"<th>{n}</th>" for n in ["", *names])
    return (
        f'<table border="1" class="dataframe">\n<thead><tr>{head}</tr></thead>'
        f"<tbody><tr><th>0_a</th>{''.join(cells)}</tr></tbody></table>"
    )


def shaped(page):
    return hook.FRAME.sub(hook.shape_frame, page)


def test_names_of_columns_break_and_text_stands_to_the_left():
    long = '<td class="sentence">two drivers at once</td>'
    row = "<tr><th>1</th><td>disk full</td><td>-2</td></tr></tbody>"
    page = frame(["what_is", "n_runs"], long, "<td>1</td>").replace("</tbody>", row)
    want = page.replace("t_is", "t_<wbr>is").replace("n_runs", "n_<wbr>runs")
    assert shaped(page) == want.replace("<td>disk", '<td class="text">disk')
    assert shaped("<pre>a_b</th></pre>") == "<pre>a_b</th></pre>"
    assert '<th class="short">job-6</th>' in shaped(page.replace("0_a", "job-6"))
    for name in ("0.1", "a-b c", "corpus-c2e+09-d8-s0"):
        assert 'class="short"' not in shaped(page.replace("0_a", name))


def test_names_in_the_reference_break():
    cell = (
        '<td>see <code>relscale.flops.f_b(1.5)</code> and <a href="02_flops.html">02_flops</a></td>'
    )
    want = cell.replace("le.fl", "le.<wbr>fl").replace("s.f_b(1.", "s.<wbr>f_<wbr>b(<wbr>1.<wbr>")
    want = want.replace(">02_", ">02_<wbr>")
    page = "<p><code>a.b</code></p><table><tr>{}</tr></table>"
    found = hook.TABLE_NAME.sub(lambda m: hook.breakable(m[0]), page.format(cell))
    assert found == page.format(want)


def test_a_table_of_claims_names_its_cells():
    """Of a study with row numbers, or of the page of all claims without them."""
    page = frame(["claim", "agrees"], '<td class="sentence">5 % of it</td>', "<td>yes</td>")
    cells = '<td data-column="claim">5\u00a0% of it</td><td data-column="agrees">yes</td>'
    for table in (page, page.replace("<th></th>", "").replace("<th>0_a</th>", "")):
        found = shaped(table)
        assert 'class="dataframe claims"' in found and cells in found


def test_site_keeps_exports_and_spells_dunder_names(tree):
    notebook = json.loads((tree / "nbs/index.ipynb").read_text())
    notebook["cells"].append(markdown("A __call__ and `__init__`, $a__b__c$, 5 % and **bold**"))
    (tree / "nbs/index.ipynb").write_text(json.dumps(notebook))
    (tree / "nbs/_draft.ipynb").write_text("not a notebook, and never read")
    build.stage(tree, tree / "staged")
    staged = json.loads((tree / "staged/index.ipynb").read_text())
    sources = ["".join(c["source"]) for c in staged["cells"]]
    assert "def exported(): ..." in sources
    assert sources[-1] == "A \\_\\_call\\_\\_ and `__init__`, $a__b__c$, 5\u00a0% and **bold**"
    assert not any("# |" in s or "hidden" in s for s in sources)
    assert not (tree / "staged/_draft.ipynb").exists()
    assert any(
        "relscale/blob/main/data/README.md)" in s for s in sources
    )  # no page: the repository's


def test_a_link_to_a_file_that_is_gone_stops_the_build(tree):
    (tree / "data/README.md").unlink()
    with pytest.raises(SystemExit, match=r"index.ipynb: links to \.\./data/README.md"):
        build.stage(tree, tree / "staged")


def test_navigation_is_the_quarto_sidebar(tmp_path):
    config = build.site_config(ROOT, tmp_path / "source", tmp_path / "site")
    contents = build.sidebar(ROOT / "_quarto.yml")
    sections = [e["section"] for e in contents if isinstance(e, dict) and "section" in e]
    titles = [
        t for e in config["nav"] if isinstance(e, dict) for t, v in e.items() if isinstance(v, list)
    ]
    assert titles == sections
    written = [
        w.strip(" -[],") for w in (ROOT / "_quarto.yml").read_text().replace(",", " ").split()
    ]
    pages = [build.as_markdown(w) for w in written if w.endswith(build.PAGES)]
    assert build.nav_files(config["nav"]) == pages
    assert config["theme"]["font"] is False


def test_every_notebook_is_in_the_sidebar_once():
    files = build.nav_files(build.nav_of(build.sidebar(ROOT / "_quarto.yml")))
    assert len(files) == len(set(files))
    assert set(files) == build.notebooks(ROOT / "nbs")


def test_nested_sidebar_entries():
    nav = build.nav_of(
        [
            "a.ipynb",
            {"text": "B", "href": "b.ipynb"},
            {"section": "S", "href": "s.ipynb", "contents": ["c.ipynb"]},
        ]
    )
    assert nav == ["a.ipynb", {"B": "b.ipynb"}, {"S": ["s.ipynb", "c.ipynb"]}]
    assert build.nav_files(nav) == ["a.ipynb", "b.ipynb", "s.ipynb", "c.ipynb"]


def test_quarto_reads_the_same_file_from_nbs():
    assert (ROOT / "nbs/_quarto.yml").resolve() == (ROOT / "_quarto.yml").resolve()


def test_check_ends_in_one_line(tree, monkeypatch):
    monkeypatch.setattr(readme, "ROOT", tree)
    monkeypatch.setattr(sys, "argv", ["readme.py", "--check"])
    with pytest.raises(SystemExit) as stop:
        readme.main()
    assert "make readme" in stop.value.code and "\n" not in stop.value.code
    readme.write(tree / "nbs/index.ipynb", tree)
    readme.main()


def test_every_link_is_walked(tmp_path):
    """Each kind of loss is found, once, and nothing that is well."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.html").write_text('<h1 id="there">B</h1><a href="../a.html#top">a</a>')
    good = '<h1 id="top">A</h1><a href="sub/b.html#there"></a><a href="#top"></a><a href="https://x.org/">x</a>'
    (tmp_path / "a.html").write_text(good)
    assert links.broken_links(tmp_path) == []
    bad = ("gone.html", "sub/b.html#gone", "#gone", "../outside.html", "gone.png")
    text = "".join(f'<a href="{target}">.</a>' for target in bad[:4]) + f'<img src="{bad[4]}">'
    (tmp_path / "a.html").write_text(good + text)
    (tmp_path.parent / "outside.html").write_text("")
    found = links.broken_links(tmp_path)
    assert [line.split(": ")[1].split(" (")[0] for line in found] == list(bad)


def test_the_reference_names_every_public_function_of_a_module():
    text = reference.make_reference(ROOT)
    import relscale.core as core

    for name in core.__all__:
        if callable(getattr(core, name)):
            assert f"\n[`{name}`](00_core.ipynb)" in text, name
    # what folds out is whole: types, defaults, sections, fields and methods
    assert "`(nats, num_bytes)`" in text and "Raises&#10;------" in text
    assert "num_workers: int | None=None" in text and "&#10;.summary()&#10;" in text


def test_every_extra_is_in_the_readmes_table():
    settings = build.settings_of(ROOT)
    extras = {k.removesuffix("_requirements") for k in settings if k.endswith("_requirements")}
    text = (ROOT / "README.md").read_text()
    assert extras >= {"train", "dev"}
    assert not [name for name in sorted({*extras, "all"}) if f"\n| `{name}` |" not in text]

"""The README and the site are made from the notebooks: what is shown, and that nothing is lost."""

import ast
import base64
import itertools
import json
import re
import struct
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbdev", reason="docs are built with the extra `dev`")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import build  # noqa: E402
import frames  # noqa: E402
import links  # noqa: E402
import pages  # noqa: E402
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
    for there in ("\nheard\n", "quiet_call()", "shown_call()  # a comment | stays", "\nred\n"):
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
        frames.table_markdown("<table><tr><td>1</td></tr><tr><td>1</td><td>2</td></tr></table>")
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
    """A sentence folds at the margin; columns, frames and nested values keep their lines."""
    sentence = "A relative law for books? yes: no departure from a straight line beyond chance."
    assert "{ .text .said }" in pages.printed(sentence)
    for kept in (
        "books   improves faster\nforums  unresolved",
        "Plan(\n    runs=3,\n)",
        "┃ a ┃\n│ 1 │\n│ 2 │",
    ):
        assert "{ .text .output }" in pages.printed(kept), kept
    both = pages.printed("a   b\n1   2\n\n3   4\n5   6\n\nA sentence.\nAnother.\n\nA third.")
    assert both == (
        "```{ .text .output }\na   b\n1   2\n\n3   4\n5   6\n```\n\n"
        "```{ .text .said }\nA sentence.\nAnother.\n\nA third.\n```"
    )


def test_a_cell_of_imports_is_folded():
    """Pages that explain begin with what they say, and the imports are a click away."""
    assert "<summary>Imports (2 lines)" in pages.shown_example("import ast\nimport json", False)
    for kept in ("import ast\nast.parse", "%matplotlib inline"):
        assert "<details" not in pages.shown_example(kept, False)


def test_a_formula_of_several_lines_is_no_list():
    formula = "With\n\n$$a = b\n+ c$$\n\n+ an item"
    assert pages.spaced(formula) == formula


def test_a_table_with_a_style_of_its_own_keeps_it():
    """Its script and its small drawings would be lost without; the styles of pandas are not the site's."""
    own = "<div><style>\n.slopes svg { overflow: visible; }\n</style><table><tr><td>1</td></tr></table></div>"
    shaped = frames.shape_tables(own)
    assert "overflow: visible" in shaped and '<table class="own">' in shaped
    shaped = frames.shape_tables(FRAME)
    assert "<style" not in shaped and 'class="own"' not in shaped


def test_pictures_of_several_panels_keep_their_size_on_a_phone():
    def png(width, height):
        return bytes(16) + width.to_bytes(4, "big") + height.to_bytes(4, "big")

    assert pages.is_wide(png(900, 700)) and pages.is_wide(png(770, 387))
    assert not pages.is_wide(png(704, 396)) and not pages.is_wide(png(616, 242))


def test_a_row_of_panels_is_named_wide_and_a_small_picture_is_not(tmp_path):
    def shown(width):
        header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, 700) + bytes(40)
        picture = display(image_png=base64.b64encode(header).decode(), text_plain="<Figure>")
        cells = [markdown("# T"), code("plot()", picture)]
        path = tmp_path / "a.ipynb"
        path.write_text(
            json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})
        )
        page = pages.make_page(path)
        assert page.files == {"a_files/1.png": header}
        return page.text

    assert "(a_files/1.png){ .figure .wide }" in shown(pages.WIDE + 1)
    assert "(a_files/1.png){ .figure }" in shown(pages.WIDE)


def frame(names, *cells):
    head = "".join(f"<th>{n}</th>" for n in ["", *names])
    return (
        f'<table border="1" class="dataframe">\n<thead><tr>{head}</tr></thead>'
        f"<tbody><tr><th>0_a</th>{''.join(cells)}</tr></tbody></table>"
    )


def test_columns_are_named_in_words_and_text_stands_to_the_left():
    long = "<td>a sentence of more than forty letters, as words</td>"
    row = "<tr><th>1</th><td>disk full</td><td>-2</td></tr></tbody>"
    page = frame(["what_is", "n_runs"], long, "<td>1</td>").replace("</tbody>", row)
    found = frames.shape_tables(page)
    assert '<th title="what_is">what is</th><th title="n_runs">n runs</th>' in found
    assert '<td class="sentence">a sentence' in found and '<td class="text">disk full' in found
    assert "<th>0_a</th>" in found  # names of rows are values
    assert frames.shape_tables("<pre>a_b</th></pre>") == "<pre>a_b</th></pre>"
    assert '<th class="short">job-6</th>' in frames.shape_tables(page.replace("0_a", "job-6"))
    for name in ("0.1", "a-b c", "corpus-c2e+09-d8-s0"):
        assert 'class="short"' not in frames.shape_tables(page.replace("0_a", name))


def test_the_name_of_the_rows_stands_in_the_corner():
    head = "<thead>\n<tr><th></th><th>yes</th></tr>\n<tr><th>section</th><th></th></tr>\n"
    page = f'<table class="dataframe">{head}</thead><tbody><tr><th>A</th><td>1</td></tr></tbody></table>'
    assert "<tr><th>section</th><th>yes</th></tr>" in frames.shape_tables(page)
    levels = page.replace("<th>yes</th>", '<th colspan="2">yes</th>').replace(
        "<th>section</th><th></th>", "<th>section</th><th>n</th>"
    )
    assert "<th>section</th><th>n</th>" in frames.shape_tables(levels)  # two lines of columns stay


@pytest.mark.parametrize(
    "digits, shown",
    [
        ("1e+18", "10<sup>18</sup>"),
        ("1.000000e+18", "10<sup>18</sup>"),
        ("-3.2e-07", "-3.2·10<sup>−7</sup>"),
        ("2.50e+09", "2.5·10<sup>9</sup>"),
        ("156000000", "156 M"),
        ("12345678.0", "12.3 M"),
        ("1500000000", "1.5 G"),
        ("999999", None),
        ("1e18 FLOPs", None),
        ("0.0123", None),
        ("2026-11-27", None),
    ],
)
def test_numbers_of_many_digits_are_written_for_people(digits, shown):
    assert frames.human_number(digits) == shown
    if shown:  # and nothing is lost
        assert frames.human_cells(f"<td>{digits}</td>") == f'<td title="{digits}">{shown}</td>'
    assert (frames.human_cells(f"<th>{digits}</th>") != f"<th>{digits}</th>") == (
        "e" in digits and bool(shown)
    )


def test_a_table_of_claims_names_its_cells():
    """Of a study with row numbers, or of the page of all claims without them."""
    page = frame(["claim", "agrees"], f"<td>5 % of it{'.' * 40}</td>", "<td>yes</td>")
    cells = (
        f'<td data-column="claim">5\u00a0% of it{"." * 40}</td><td data-column="agrees">yes</td>'
    )
    for table in (page, page.replace("<th></th>", "").replace("<th>0_a</th>", "")):
        found = frames.shape_tables(table)
        assert 'class="dataframe claims"' in found and cells in found


def test_source_and_checks_are_behind_a_click_and_out_of_the_search():
    source = (
        'def shown(a, *, b=1, **rest) -> int:\n    """Says what.\n\n    Parameters\n    ----------\n'
        '    a\n        A thing.\n    """\n    return a\n\n\ndef _own():\n    return 1'
    )
    page = pages.shown_source(source, "r.md#relscale.m")
    card, folded = page.split("<details")
    assert "shown(a, *, b=1, **rest) -> int" in card and "Says what." in card
    assert "(r.md#relscale.m.shown)" in card and "_own" not in card and "A thing" not in card
    assert "data-search-exclude markdown" in card and "data-search-exclude markdown" in folded
    assert source in folded and "<code>shown</code>, <code>_own</code> (13 lines)" in folded
    assert "Check (1 line)" in pages.shown_example("assert 1", has_output=False)
    assert "<details" not in pages.shown_example("assert 1\n1", has_output=True)
    assert "<details" in pages.shown_example("x = 1\n" * (pages.LONG + 1), has_output=True)


def test_long_calls_are_broken_and_defaults_stand_with_their_names():
    (node,) = ast.parse(f"def f(a, b=2, *c, d, e=(1, 2), {'x' * 80}=None): ...").body
    lines = pages.arguments(node).splitlines()
    assert lines[1:6] == ["    a,", "    b=2,", "    *c,", "    d,", "    e=(1, 2),"]
    assert lines[-1] == ")"


def test_lists_of_notebooks_are_lists_for_python_markdown():
    text = "Words:\n- one\n  and more\n  - inner\n\n```\n- code\n```\nend"
    want = "Words:\n\n- one\n    and more\n    - inner\n\n```\n- code\n```\nend"
    assert pages.spaced(text) == want


def test_site_keeps_exports_and_spells_dunder_names(tree):
    notebook = json.loads((tree / "nbs/index.ipynb").read_text())
    notebook["cells"].append(markdown("A __call__ and `__init__`, $a__b__c$, 5 % and **bold**"))
    (tree / "nbs/index.ipynb").write_text(json.dumps(notebook))
    (tree / "nbs/_draft.ipynb").write_text("not a notebook, and never read")
    build.stage_notebooks(tree, tree / "staged", {})
    staged = (tree / "staged/index.md").read_text()
    front = "title: Title\ndescription: Subtitle\nhide:\n- navigation\n"
    assert staged.startswith(f"---\n{front}---\n\n# Title\n")
    assert "def exported(): ..." in staged
    assert "A \\_\\_call\\_\\_ and `__init__`, $a__b__c$, 5\u00a0% and **bold**" in staged
    assert "# |" not in staged and "hidden" not in staged
    assert not (tree / "staged/_draft.md").exists()
    assert "relscale/blob/main/data/README.md)" in staged  # no page: the repository's
    assert "(03_plan.md#x)" in staged
    assert (tree / "staged/index_files/1.png").read_bytes() == PIXEL


def test_words_of_a_reader_lead_to_pages_that_are_there(tree):
    """A page that was renamed would else be lost to those who search for what it is about."""
    words = build.reader_words()
    there = {name.removesuffix(".ipynb") for name in build.notebooks(ROOT / "nbs")}
    assert set(words) <= there
    assert all(word == str(word).lower() and " " not in word for w in words.values() for word in w)
    page = pages.Page("Title", "", "Text")
    build.write_page(page, tree / "how_to/page.md", ["one", "two"])
    front = "title: Title\nsearch:\n  boost: 5\ntags:\n- one\n- two\n"
    assert (tree / "how_to/page.md").read_text().startswith(f"---\n{front}---\n")


def test_a_link_to_a_file_that_is_gone_stops_the_build(tree):
    (tree / "data/README.md").unlink()
    with pytest.raises(SystemExit, match=r"index.ipynb: links to \.\./data/README.md"):
        build.stage_notebooks(tree, tree / "staged", {})


def test_navigation_is_the_quarto_sidebar():
    """Pages in the sidebar's order; chapters under one tab, the reference last."""
    nav = build.nav_of(build.sidebar(ROOT / "_quarto.yml"))
    files = build.nav_files(nav)
    made = {"core": "reference/core.md", "laws.lines": "reference/laws.lines.md"}
    found = build.tabs(build.named_nav(nav, {name: name for name in files}), made)
    titles = [next(iter(entry)) for entry in found]
    assert titles[0] == "Home" and titles[-2:] == ["Chapters", "Reference"]
    assert not set(titles) & set(build.LIBRARY)
    shown = [page for page in build.nav_files(found) if "/" not in page or "reference" not in page]
    assert sorted(shown) == sorted([*map(build.as_markdown, files), "chapters.md"])
    assert found[-1]["Reference"][1:] == [
        {"relscale": [{"core": "reference/core.md"}]},
        {"laws": [{"lines": "reference/laws.lines.md"}]},
    ]


def test_the_site_loads_nothing_from_elsewhere(tmp_path):
    (tmp_path / "a.html").write_text('<script src="here.js"></script><a href="https://x.org">x</a>')
    assert build.remote_assets(tmp_path) == []
    (tmp_path / "b.html").write_text('<script src="https://x.org/a.js"></script>')
    assert [line.split(" ")[0] for line in build.remote_assets(tmp_path)] == ["b.html"]


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


def test_the_reference_has_a_page_for_each_module_and_a_line_for_each_name_of_the_door(tmp_path):
    import relscale as rs
    import relscale.core as core

    order = build.nav_files(build.nav_of(build.sidebar(ROOT / "_quarto.yml")))
    made = reference.write_reference(ROOT, tmp_path / "reference", order)
    page = (tmp_path / "reference/core.md").read_text()
    for name in core.__all__:
        if callable(getattr(core, name)):
            assert f"\n::: relscale.core.{name}\n" in page, name
    assert "](../00_core.md)" in page
    index = (tmp_path / "reference/index.md").read_text()
    for name, home in rs._HOME.items():
        assert f"| [`rs.{name}`]({home}.md#relscale.{home}.{name}) | " in index or name.isupper(), (
            name
        )
    modules = {
        ".".join(p.relative_to(ROOT / "relscale").with_suffix("").parts)
        for p in (ROOT / "relscale").rglob("[!_]*.py")
        if re.search(r"^(def|class) [^_]", p.read_text(), re.MULTILINE)
    }
    assert set(made) == modules


def test_every_extra_is_in_the_table_of_the_page_on_installing():
    settings = build.settings_of(ROOT)
    extras = {k.removesuffix("_requirements") for k in settings if k.endswith("_requirements")}
    text = pages.make_page(ROOT / "nbs/how_to/install.ipynb").text
    assert extras >= {"train", "dev"}
    assert not [name for name in sorted({*extras, "all"}) if f"\n| `{name}` |" not in text]


def test_readme_is_one_page_with_its_picture_on_the_first_screen():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 90
    assert any(line.startswith("![") for line in lines[:15])


def test_a_fold_ends_at_its_mark_or_with_its_section():
    parts = [
        "## One",
        "seen\n\n<!-- fold: All rows & more -->",
        "table",
        "### Within",
        "## Two\n\n<!-- fold: again -->",
        "hidden",
        "<!-- /fold -->\n\nseen again",
        "<!-- fold: last -->\n\nrest",
    ]
    text = "\n\n".join(pages.arranged(parts, for_site=True))
    opening = '<details class="more" markdown>\n<summary>'
    assert text.count(opening) == text.count("</details>") == 3 and "<!--" not in text
    first = text.split("</details>")[0]
    assert f"seen\n\n{opening}All rows &amp; more</summary>\n\ntable\n\n### Within" in first
    assert "hidden\n\n</details>\n\nseen again" in text and text.endswith("rest\n\n</details>")
    assert pages.arranged(parts, for_site=False)[1] == "seen"  # GitHub has no folds


def test_a_gallery_is_a_grid_of_cards():
    """Each picture opens in full and stands before its words; code is folded, and nothing is lost."""
    code_block = "```python\nax.plot()\nax.set()\n```"
    parts = [
        "Intro.\n\n<!-- cards -->",
        "```python\nsetup\n```",
        "## Wing",
        "Words of the wing.",
        "### A\n\nWhat it shows.",
        code_block,
        "![alt](g/1.png){ .figure }",
        "### B",
        code_block,
        "![b](g/2.png){ .figure .wide }",
        "## Next",
        "After.",
    ]
    text = "\n\n".join(pages.arranged(parts, for_site=True))
    assert text.count('<div class="card" markdown>') == 2 and text.count('<div class="cards"') == 1
    assert text.count("<div") == text.count("</div>") and "<!--" not in text
    card = text.split('<div class="card" markdown>')[1]
    order = ["### A", "[![alt](g/1.png){ .figure }](g/1.png)", "What it shows.", "Code (2 lines)"]
    assert [card.index(word) for word in order] == sorted(card.index(word) for word in order)
    assert text.index("Words of the wing.") < text.index('<div class="cards"')
    assert text.endswith("## Next\n\nAfter.")


def test_a_table_of_many_columns_stands_behind_a_click():
    head = "".join(f"<th>c{k}</th>" for k in range(14))
    wide = f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody></tbody></table>'
    assert "<summary>Table of 13 columns</summary>" in frames.shape_tables(f"<p>words</p>{wide}")
    assert "<summary>" not in frames.shape_tables(wide)  # the table is all there is to see
    assert "<summary>" not in frames.shape_tables(f"<p>words</p>{FRAME}")

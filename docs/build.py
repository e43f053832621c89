"""Build the site in _site/ from the executed notebooks: nothing runs, and viewing it needs no network.

The navigation is the sidebar of _quarto.yml, so that this site and Quarto's stay one.
MathJax and the search shim come from npm, or MathJax from PyPI, once; `make clean` forgets them.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import yaml
from links import broken_links
from pages import LONG, Page, make_page
from reference import read_modules, write_reference

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SKIPPED = re.compile(r"(^|/)[_.]")
LOADED = re.compile(
    r'<(?:script|img|iframe)\b[^>]*\bsrc="(?:https?:)?//[^"]*"'
    r'|<link\b[^>]*\brel="stylesheet"[^>]*\bhref="(?:https?:)?//[^"]*"'
    r'|\bimport\("(?:https?:)?//[^"]*"'
)
MATHJAX = "tex-svg-full.js"  # one file: fonts and every TeX extension inside

CHAPTERS = """# Chapters

The chapters are the library: one notebook, one module of the same name, in the order in which they are read and import each other.
"""
STUDY_LINES = 8  # a study is read for what it finds; a chapter for how it is done
# In a search, short answers come first, then what is read from its beginning, then the rest.
BOOSTS = {"how_to": 5, "tutorials": 3, "explanations": 3}
# Pages that are made here, and that notebooks may link to.
MADE = ("reference", "chapters.md")
# Sections of the sidebar that stand under one tab: the chapters of the package.
LIBRARY = ("Ground", "Plan", "Text", "Model", "Evaluate", "Laws", "Analyse and report", "Sweep")
LIBRARY += ("Study and command line",)


def sidebar(path: Path) -> list:
    """Contents of the sidebar of a _quarto.yml."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]


def nav_of(contents: list) -> list:
    """mkdocs navigation from Quarto sidebar contents: files, titled files and sections."""
    nav = []
    for entry in contents:
        if isinstance(entry, str):
            nav.append(entry)
        elif "section" in entry:
            first = [entry["href"]] if "href" in entry else []
            nav.append({entry["section"]: first + nav_of(entry["contents"])})
        else:
            nav.append({entry["text"]: entry["href"]} if "text" in entry else entry["href"])
    return nav


def nav_files(nav: list) -> list[str]:
    """The files of a navigation, in reading order."""
    files = []
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            files += nav_files(value) if isinstance(value, list) else [value]
    return files


def notebooks(nbs: Path) -> set[str]:
    """Notebooks below a folder that belong in the site."""
    found = {p.relative_to(nbs).as_posix() for p in nbs.rglob("*.ipynb")}
    return {name for name in found if not SKIPPED.search(name)}


def as_markdown(name: str) -> str:
    """The page that a notebook becomes."""
    return name.removesuffix(".ipynb") + ".md"


def settings_of(root: Path) -> dict:
    """The project's settings, with their references to each other filled in."""
    settings = ConfigParser(delimiters=["="])
    settings.read(root / "settings.ini", encoding="utf-8")
    return dict(settings["DEFAULT"])


def named_nav(nav: list, titles: dict[str, str]) -> list:
    """A navigation of notebooks as one of pages, each with its title."""
    named = []
    for entry in nav:
        if isinstance(entry, str):
            named.append({titles[entry]: as_markdown(entry)} if entry in titles else entry)
        else:
            ((name, value),) = entry.items()
            inner = named_nav(value, titles) if isinstance(value, list) else as_markdown(value)
            named.append({name: inner})
    return named


def reference_nav(pages: dict[str, str]) -> list:
    """Pages of the reference, by wing."""
    wings: dict[str, list] = {}
    for name, page in pages.items():
        wing, _, module = name.rpartition(".")
        wings.setdefault(wing or "relscale", []).append({module: page})
    return ["reference/index.md", *({wing: entries} for wing, entries in wings.items())]


def tabs(nav: list, pages: dict[str, str]) -> list:
    """Chapters of the package under one tab, and the reference last."""
    name = {id(entry): next(iter(entry)) for entry in nav}
    chapters = [entry for entry in nav if name[id(entry)] in LIBRARY]
    first = [entry for entry in nav if name[id(entry)] not in LIBRARY]
    return [*first, {"Chapters": ["chapters.md", *chapters]}, {"Reference": reference_nav(pages)}]


def site_config(root: Path, source: Path, target: Path, nav: list) -> dict:
    """The whole configuration, which mkdocs and its successors read."""
    settings = settings_of(root)
    config = yaml.safe_load((DOCS / "mkdocs.yml").read_text(encoding="utf-8"))
    config["site_name"], config["site_description"] = settings["lib_name"], settings["description"]
    # Not `repo_url`: with it every reader's browser would ask GitHub for the count of stars.
    config["extra"]["social"] = [
        {"icon": "material/source-repository", "link": settings["git_url"], "name": "Source"}
    ]
    config["site_url"] = (
        f"{settings['doc_host']}{settings['doc_baseurl']}/"  # for the page of a lost link
    )
    # As seen from the configuration, so that another builder reads the same file where it lies.
    config["docs_dir"], config["site_dir"] = source.name, target.name
    config["theme"]["custom_dir"] = str(DOCS / "overrides")
    python = config["plugins"]["mkdocstrings"]["handlers"]["python"]
    python["paths"] = [str(root)]
    python["options"]["extensions"] = [str(DOCS / "own_defaults.py")]
    config["nav"] = nav
    return config


def run_quietly(*command: str, cwd: Path) -> bool:
    """Whether a command exists and ends well."""
    if shutil.which(command[0]) is None:
        return False
    return (
        subprocess.run(command, cwd=cwd, capture_output=True, stdin=subprocess.DEVNULL).returncode
        == 0
    )


def fetch(cache: Path, member: str, npm: str, pip: str | None = None) -> bool:
    """Take one file of an npm package, or of a wheel that carries the same, into the cache."""
    kept = cache / Path(member).name
    if kept.is_file():
        return True
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        content = None
        if run_quietly("npm", "pack", "--silent", npm, cwd=scratch):
            with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
                content = archive.extractfile(f"package/{member}").read()
        elif pip and run_quietly(
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", pip, cwd=scratch
        ):
            with zipfile.ZipFile(next(scratch.glob("*.whl"))) as archive:
                name = next(n for n in archive.namelist() if n.endswith(member))
                content = archive.read(name)
    if content is None:
        return False
    part = kept.with_name(f"{kept.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, kept)
    return True


def repository_link(root: Path, target: str) -> str:
    """A file of the project as the repository shows it."""
    settings = settings_of(root)
    return f"{settings['git_url']}/blob/{settings['branch']}/{target}"


def page_title(name: str, title: str) -> str:
    """A chapter's title begins with its number, which orders its folder; other pages are found by words."""
    number = re.match(r"(\d+)_", Path(name).name)
    return f"{number[1]} {title}" if number and not name.startswith("how_to/") else title


def chapters_page(nav: list, pages: dict[str, Page]) -> str:
    """The list of all chapters, by wing, from their own first lines."""
    parts = [CHAPTERS.strip()]
    for entry in nav:
        ((wing, names),) = entry.items()
        if wing in LIBRARY:
            rows = [f"| [{pages[n].title}]({as_markdown(n)}) | {pages[n].blurb} |" for n in names]
            parts.append(
                "\n".join([f"## {wing}", "", "| chapter | is about |", "|---|---|", *rows])
            )
    return "\n\n".join(parts) + "\n"


def stage_notebooks(root: Path, source: Path, modules: dict[str, str]) -> dict[str, Page]:
    """Write every notebook as Markdown with its pictures; gives the pages by notebook.

    `modules` has the module that a notebook exports, for links to the reference.
    """
    nbs, pages, words = (root / "nbs").resolve(), {}, reader_words()

    def linked(target: str, page: str) -> str:
        """A notebook by its page; a file that is no page as the repository shows it."""
        path, mark, anchor = target.partition("#")
        there = (nbs / page).parent.joinpath(path).resolve()
        if there.is_relative_to(nbs) and there.suffix == ".ipynb":
            return as_markdown(path) + mark + anchor
        if any(there.is_relative_to(nbs / made) for made in MADE):
            return target
        if not there.exists():
            raise SystemExit(f"nbs/{page}: links to {target}, which is not there")
        if there.is_relative_to(nbs):
            return target
        return repository_link(root, there.relative_to(root.resolve()).as_posix())

    for name in sorted(notebooks(nbs)):
        module = modules.get(name)
        page = make_page(
            nbs / name,
            link=lambda target, page=name: linked(target, page),
            reference=f"{'../' * name.count('/')}reference/{module}.md#relscale.{module}"
            if module
            else None,
            long=STUDY_LINES if name.startswith("case_studies/") else LONG,
        )
        pages[name] = page = replace(page, title=page_title(name, page.title))
        write_page(page, source / as_markdown(name), words.get(name.removesuffix(".ipynb")))
    for picture in sorted(nbs.rglob("*")):
        name = picture.relative_to(nbs).as_posix()
        if picture.suffix in {".png", ".svg", ".jpg", ".gif"} and not SKIPPED.search(name):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, source / name)
    return pages


def reader_words() -> dict[str, list[str]]:
    """Words that a reader may type, by page without its ending."""
    return yaml.safe_load((DOCS / "words.yml").read_text(encoding="utf-8"))


def write_page(page: Page, target: Path, words: list[str] | None = None) -> None:
    """Write a page and its pictures; title and first line also stand in its front matter, for search and previews.

    `words` of a reader are tags, which the search puts before titles and text, and no page shows.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    alone = {"hide": ["navigation"]} if target.stem in ("index", "gallery") else {}
    boost = BOOSTS.get(target.parent.name)
    found = {"search": {"boost": boost}, "tags": words} if boost else {"tags": words}
    head = {"title": page.title, "description": page.blurb, **alone, **found}
    front = yaml.safe_dump({k: v for k, v in head.items() if v}, sort_keys=False)
    blurb = f"{page.blurb}\n{{ .blurb }}\n\n" if page.blurb else ""
    text = f"---\n{front}---\n\n# {page.title}\n\n{blurb}{page.text}\n"
    target.write_text(text, encoding="utf-8")
    for path, content in page.files.items():
        (target.parent / path).parent.mkdir(exist_ok=True)
        (target.parent / path).write_bytes(content)


def stage(root: Path, source: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Lay out all that a builder of sites reads; gives titles of notebooks, and pages of modules."""
    nav = nav_of(sidebar(root / "_quarto.yml"))
    modules = {chapter: name for name, (chapter, _) in read_modules(root).items()}
    pages = stage_notebooks(root, source, modules)
    made = write_reference(root, source / "reference", nav_files(nav))
    (source / "chapters.md").write_text(chapters_page(nav, pages), encoding="utf-8")
    (source / "assets").mkdir()
    for name in ("extra.css", "mark.svg"):
        shutil.copyfile(DOCS / name, source / "assets" / name)
    return {name: page.title for name, page in pages.items()}, made


def lay_out(root: Path, work: Path, target: Path) -> dict:
    """Stage all pages below `work`, and write the configuration beside them; gives the configuration."""
    nav = nav_of(sidebar(root / "_quarto.yml"))
    listed, there = set(nav_files(nav)), notebooks(root / "nbs")
    if listed != there:
        sys.exit(
            f"sidebar of _quarto.yml and nbs/ differ in {', '.join(sorted(listed ^ there))}: "
            "list every notebook there once"
        )
    source = work / "site_source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    titles, pages = stage(root, source)
    config = site_config(root, source, target, tabs(named_nav(nav, titles), pages))

    vendor, assets = work / "vendor", source / "assets"
    if fetch(vendor, f"es5/{MATHJAX}", "mathjax@3.2.2", "django-static-mathjax==3.2.2.1"):
        shutil.copyfile(vendor / MATHJAX, assets / "mathjax.js")
        shutil.copyfile(DOCS / "mathjax-config.js", assets / "mathjax-config.js")
        config["extra_javascript"] = ["assets/mathjax-config.js", "assets/mathjax.js"]
    else:
        print("MathJax came neither from npm nor from PyPI: formulas are shown as TeX")
    if fetch(vendor, "shim/index.js", "iframe-worker@1.0.4"):
        # Search also works in a site opened from disk, where browsers refuse workers.
        shutil.copyfile(vendor / "index.js", assets / "iframe-worker.js")
        config["extra"]["polyfills"] = ["assets/iframe-worker.js"]
        config["plugins"]["offline"] = {}
    (work / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return config


def remote_assets(site: Path) -> list[str]:
    """Pages that would load anything from elsewhere."""
    return [
        f"{page.relative_to(site)} would load from the network: {found[0]}"
        for page in sorted(site.rglob("*.html"))
        if (found := LOADED.search(page.read_text(encoding="utf-8")))
    ]


def build(root: Path, target: Path) -> None:
    """Build the whole site, and put it in place of the old one at the end."""
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config

    work = root / "_proc"
    fresh = work / "site"
    shutil.rmtree(fresh, ignore_errors=True)
    lay_out(root, work, fresh)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    mkdocs_build(load_config(str(work / "mkdocs.yml")))
    if lost := broken_links(fresh):
        sys.exit("\n".join([f"{len(lost)} broken links, and the old site stays:", *lost]))
    if remote := remote_assets(fresh):
        sys.exit("\n".join(remote))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(fresh, target)
    pages = sum(1 for _ in target.rglob("*.html"))
    print(f"{pages} pages, no broken link: open {target.relative_to(root)}/index.html")


if __name__ == "__main__":
    build(ROOT, ROOT / "_site")

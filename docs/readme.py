"""Make README.md and its pictures from nbs/index.ipynb: stored outputs only, nothing runs.

`python docs/readme.py` writes them, `python docs/readme.py --check` says whether they are stale.
"""

import argparse
import posixpath
import re
import sys
from pathlib import Path

from build import settings_of
from pages import make_page

ROOT = Path(__file__).resolve().parent.parent
NOTICE = "<!-- Made from {source} by docs/readme.py: edit the notebook, then run `make readme`. -->"


def make_readme(
    notebook: Path, root: Path, images: str = "docs/images"
) -> tuple[str, dict[str, bytes]]:
    """The Markdown text of a notebook, and its images by path below `root`.

    Parameters
    ----------
    notebook
        The notebook, anywhere below `root`.
    root
        Folder that README.md stands in: links are written as seen from it.
    images
        Folder below `root` for the pictures.
    """
    settings = settings_of(root)
    site = settings["doc_host"] + settings["doc_baseurl"]
    home = notebook.resolve().parent.relative_to(root.resolve()).as_posix()

    def from_root(target: str) -> str:
        if re.match(r"(reference/|chapters\.md)", target):  # made with the site, and only there
            return f"{site}/{re.sub(r'[.]md(?=#|$)', '.html', target)}"
        return posixpath.normpath(posixpath.join(home, target))

    page = make_page(notebook, link=from_root, images=images, for_site=False)
    body = re.sub(r"[ \t]+$", "", page.text, flags=re.MULTILINE)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    source = posixpath.join(home, notebook.name)
    return f"{NOTICE.format(source=source)}\n\n{body}\n", page.files


def stale(notebook: Path, root: Path) -> list[str]:
    """Paths below `root` that differ from what the notebook would give."""
    text, files = make_readme(notebook, root)
    wanted = {"README.md": text.encode(), **files}
    there = {p.relative_to(root).as_posix() for p in old_images(notebook, root)}
    return sorted(
        {p for p, c in wanted.items() if not (root / p).is_file() or (root / p).read_bytes() != c}
        | (there - wanted.keys())
    )


def old_images(notebook: Path, root: Path) -> list[Path]:
    """Images that an earlier run wrote."""
    return sorted((root / "docs/images").glob(f"{notebook.stem}_*"))


def write(notebook: Path, root: Path) -> None:
    """Write README.md and the images, and take away images that no cell shows any more."""
    text, files = make_readme(notebook, root)
    for path in old_images(notebook, root):
        path.unlink()
    for path, content in {"README.md": text.encode(), **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description="README.md from nbs/index.ipynb")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    notebook = ROOT / "nbs/index.ipynb"
    if not notebook.is_file():
        sys.exit("nbs/index.ipynb is not there: README.md is made from it")
    if not check:
        write(notebook, ROOT)
    elif paths := stale(notebook, ROOT):
        sys.exit(f"{', '.join(paths)} not what nbs/index.ipynb gives: run `make readme` and commit")


if __name__ == "__main__":
    main()

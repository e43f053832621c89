"""Make README.md and its pictures from nbs/index.ipynb: stored outputs only, nothing runs.

`python docs/readme.py` writes them, `python docs/readme.py --check` says whether they are stale.
"""

import argparse
import posixpath
import re
import sys
from pathlib import Path

from cells import NO_INPUT, image_bytes, join, read_shown, relink, table_markdown
from nbconvert.exporters import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/svg+xml": "svg",
    "image/gif": "gif",
}
NO_INPUT_CONFIG = Config(
    {"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {NO_INPUT}}}
)
NOTICE = "<!-- Made from {source} by docs/readme.py: edit the notebook, then run `make readme`. -->"


def plain_output(output, take_image) -> None:
    """Leave one form of an output, one that GitHub and PyPI both show."""
    data = output.get("data")
    if data is None:
        return
    for mime in EXTENSIONS:
        if mime in data:
            content = image_bytes(mime, data[mime])
            output["data"] = {"text/markdown": take_image(mime, content, output.metadata["alt"])}
            return
    table = (
        table_markdown(join(data["text/html"]))
        if "<table" in join(data.get("text/html", ""))
        else None
    )
    markdown = table or join(data.get("text/markdown", ""))
    if markdown:
        output["data"] = {"text/markdown": markdown}
    else:
        output["data"] = {"text/plain": join(data.get("text/plain", ""))}


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
    shown = read_shown(notebook, keep_exports=False)
    home = notebook.resolve().parent.relative_to(root.resolve()).as_posix()
    files: dict[str, bytes] = {}

    def take_image(mime: str, content: bytes, alt: str) -> str:
        path = f"{images}/{notebook.stem}_{len(files) + 1}.{EXTENSIONS[mime]}"
        files[path] = content
        return f"![{alt}]({path})"

    def from_root(target: str) -> str:
        return posixpath.normpath(posixpath.join(home, target))

    for cell in shown.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(cell.source, from_root)
            for name, bundle in cell.pop("attachments", {}).items():
                mime, content = next(iter(bundle.items()))
                picture = take_image(mime, image_bytes(mime, content), name)
                path = picture.removeprefix(f"![{name}](").removesuffix(")")
                cell.source = cell.source.replace(f"attachment:{name}", path)
        for output in cell.get("outputs", []):
            plain_output(output, take_image)
    body, _ = MarkdownExporter(config=NO_INPUT_CONFIG).from_notebook_node(shown)
    body = re.sub(r"[ \t]+$", "", body, flags=re.MULTILINE)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    source = posixpath.join(home, notebook.name)
    return f"{NOTICE.format(source=source)}\n\n{body}\n", files


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

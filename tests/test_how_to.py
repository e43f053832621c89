"""Pages for users: each how-to has one form, and every command that a page shows is one that the command line takes."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "nbs/how_to").glob("[0-9]*.ipynb"))
NOTEBOOKS = sorted((ROOT / "nbs").rglob("[0-9]*.ipynb"))
# What a reader fills in
OPEN = re.compile(r"\$|…|\.\.\.")


def cells(path: Path) -> list[tuple[str, str]]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(c["cell_type"], "".join(c["source"])) for c in found]


def commands_in(text: str) -> list[str]:
    """Command lines of the shell blocks of a text, continued lines joined and comments left out."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line.partition("relscale ")[2] for line in lines if re.match(r"(srun .*)?relscale ", line)]  # fmt: skip
    return ["relscale " + re.sub(r"\s+#.*", "", line).strip() for line in lines]


def shown_commands(path: Path) -> list[str]:
    return [c for kind, text in cells(path) if kind == "markdown" for c in commands_in(text)]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_how_to_has_its_form(path):
    """The user's words, one line, two slips, and where to read on; and it stands in the numbers' order."""
    texts = [text for kind, text in cells(path) if kind == "markdown"]
    first = texts[0].splitlines()
    assert first[0].startswith("# ") and first[2].startswith("> ") and len(first[2]) < 160
    whole = "\n".join(texts)
    assert len(re.findall(r"^## Two slips$", whole, re.MULTILINE)) == 1
    slips = whole.partition("## Two slips")[2]
    assert len(re.findall(r"^\*\*[^*]+\.?\*\*", slips, re.MULTILINE)) == 2
    assert re.search(r"^Read on: .*\]\(", whole, re.MULTILINE)
    assert len(cells(path)) <= 32
    code = "\n".join(text for kind, text in cells(path) if kind == "code")
    assert not re.search(r"^\s*(from relscale|import relscale\.)", code, re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_what_ran_is_what_is_shown(path):
    """A page runs its commands by `run("relscale ...")`, each as a shell block above shows it."""
    shown, ran = [], []
    for kind, text in cells(path):
        shown += commands_in(text) if kind == "markdown" else []
        for command in re.findall(r"run\(\s*\"(relscale [^\"]*)\"\s*\)", text):
            ran.append(command)
            assert command in shown, command
    assert ran or any(kind == "code" and "rs." in text for kind, text in cells(path))


def test_the_command_line_takes_every_command_that_is_shown():
    """An option that was renamed would else live on in prose; each command is parsed and not run."""
    import tyro

    from relscale.cli import COMMANDS

    shown = {c: path for path in NOTEBOOKS for c in shown_commands(path) if not OPEN.search(c)}
    assert len(shown) > 30
    refused = []
    for command, path in shown.items():
        name, *words = shlex.split(command)[1:]
        if name.startswith("--"):
            continue
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
                tyro.cli(COMMANDS[name], args=words, config=config)
        except (SystemExit, KeyError):
            refused.append(f"{path.name}: {command}")
    assert not refused


def test_the_list_of_commands_has_every_command():
    from relscale.cli import COMMANDS

    shown = "\n".join(text for _, text in cells(ROOT / "nbs/how_to/commands.ipynb"))
    assert [c for c in COMMANDS if f"| `relscale {c}" not in shown] == []

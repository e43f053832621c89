"""Three decades of compute on text of packages: text and plans, and the tables of the suite.

python data/decades/make.py text DEBIAN WORK     # DEBIAN holds the packages that README.md names, unpacked by dpkg -x
relscale sweep WORK/small.json --store WORK/store ... # see README.md; middle.json and large.json follow
python data/decades/make.py tables WORK/store
"""

import dataclasses
import gzip
import importlib.util
import json
import re
import sys
import sysconfig
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

from relscale.core import write_atomic
from relscale.plan.recipes import SMALL, Plan, plan_isoflop, save_plan
from relscale.tables import read_table, write_table

HERE = Path(__file__).resolve().parent
RECIPE = dataclasses.replace(SMALL, name="decades", seq_len=256)
DOMAINS = ("code", "kernel", "dictionary", "manuals")
PIECES = {
    "small": ((1e11, 3.2e11, 1e12, 3.2e12, 1e13), (0, 1)),
    "middle": ((3.2e13,), (0,)),
    "large": ((1e14,), (0,)),
}  # budgets in training FLOPs of one run, and seeds
PACKAGES = ("numpy", "scipy", "pandas", "matplotlib", "jax")
ENTRIES = 100  # of the dictionary in a document
METRICS = ("bits_per_byte", "accuracy", "choice_probability", "choice_log_probability", "log_probability")  # fmt: skip
SOURCE = re.compile(r"^\s*\[[^\[\]]*\]\s*$", re.MULTILINE)  # whose entry it is, on a line alone


def code() -> dict[str, str]:
    """Modules of Python's standard library and of five packages, without tests."""
    roots = [Path(sysconfig.get_path("stdlib"))]
    specs = [importlib.util.find_spec(name) for name in PACKAGES]
    roots += [Path(spec.submodule_search_locations[0]) for spec in specs]
    skipped = {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
    found = {}
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root)
            if not skipped & set(inside.parts):
                found[f"{root.name}-{'-'.join(inside.parts)}"] = path.read_text("utf-8", "replace")
    return found


def kernel(debian: Path) -> dict[str, str]:
    """Pages of the kernel's documentation, as their authors wrote them."""
    root = next(debian.glob("usr/share/doc/linux-doc-*/html/_sources"))
    pages = [p for p in sorted(root.rglob("*")) if ".rst.txt" in p.name and "translations" not in p.parts]  # fmt: skip
    return {
        "-".join(p.relative_to(root).parts): (gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes()).decode("utf-8", "replace")
        for p in pages
    }  # fmt: skip


def dictionary(debian: Path) -> dict[str, str]:
    """The Collaborative International Dictionary of English, a hundred entries a document, without the marks of whose an entry is."""
    packed = next(debian.glob("usr/share/dictd/gcide.dict.dz"))
    text = SOURCE.sub("", gzip.decompress(packed.read_bytes()).decode("utf-8", "replace"))
    entries = re.split(r"\n(?=\S)", text)
    parts = ["\n".join(entries[i : i + ENTRIES]) for i in range(0, len(entries), ENTRIES)]
    return {f"{i:05d}": re.sub(r"\n\s*\n+", "\n\n", part) for i, part in enumerate(parts)}


class Lines(HTMLParser):
    """The text of a page, a block a line, without its frame."""

    hidden_in = {"script", "style", "nav", "header", "footer", "head", "button"}
    blocks = {"p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "br", "dt", "dd", "pre", "table"}  # fmt: skip

    def __init__(self):
        super().__init__()
        self.parts, self.hidden = [], 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in self.hidden_in
        if tag in self.blocks:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.hidden = max(self.hidden - (tag in self.hidden_in), 0)
        if tag in self.blocks:
            self.parts.append("\n")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def manuals(debian: Path) -> dict[str, str]:
    """Pages of the manuals of two databases and of Git."""
    found = {}
    for package in ("postgresql-doc-15", "sqlite3-doc", "git-doc", "sqlite3", "git"):
        root = debian / "usr/share/doc" / package
        for path in sorted(root.rglob("*.html")):
            lines = Lines()
            lines.feed(path.read_text("utf-8", "replace"))
            text = "".join(lines.parts)
            text = "\n".join(line.rstrip() for line in text.split("\n"))
            name = f"{package}-{'-'.join(path.relative_to(root).parts)}"
            found[name] = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return found


def uniform(budgets, seeds) -> Plan:
    """Four sizes a budget on an equal mixture."""
    mixture = tuple((name, 1 / len(DOMAINS)) for name in DOMAINS)
    return plan_isoflop(
        budgets, RECIPE, corpora=("uniform",), mixture=mixture, seeds=seeds, min_sizes=4
    )


def write_text(debian: Path, work: Path) -> None:
    """Each domain as a folder of text, and a plan for each piece."""
    made = dict(zip(DOMAINS, (code(), kernel(debian), dictionary(debian), manuals(debian)), strict=True))  # fmt: skip
    for name, documents in made.items():
        folder = work / "train" / name
        folder.mkdir(parents=True, exist_ok=True)
        for title, text in documents.items():
            (folder / f"{title.replace('.', '-')}.txt").write_text(text, encoding="utf-8")
        size = sum(len(text.encode()) for text in documents.values())
        print(f"{name}: {len(documents)} documents, {size / 1e6:.1f} MB")
    for name, (budgets, seeds) in PIECES.items():
        plan = uniform(budgets, seeds)
        write_atomic(work / f"{name}.json", save_plan(plan))
        print(f"{name}: {len(plan.runs)} runs, {plan.train_flops:.3g} training FLOPs")


def joined(file: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table that is there, of other runs, and then these."""
    if not file.exists():
        return rows
    old = read_table(file)
    return pd.concat([old[~old["run_id"].isin(rows["run_id"])], rows], ignore_index=True)


def write_tables(store: Path) -> None:
    """Runs, scores, text and the core time of each piece, beside this file; a store's tables are of its last plan."""
    plans = {name: uniform(*own) for name, own in PIECES.items()}
    piece_of = {run.run_id: name for name, plan in plans.items() for run in plan.runs}
    runs = read_table(store / "runs.parquet")
    runs = runs[runs["run_id"].isin(piece_of)].assign(suite="decades")
    runs = joined(HERE / "runs.csv", runs).sort_values(["budget_flops", "num_params", "seed"])
    write_table(runs, HERE / "runs.csv")
    scores = read_table(store / "scores.parquet")
    kept = scores["run_id"].isin(runs["run_id"]) & scores["metric"].isin(METRICS)
    scores = joined(HERE / "scores.parquet", scores[kept & ~scores["task"].str.endswith(":subjects")])  # fmt: skip
    write_table(scores.sort_values(["run_id", "task", "group"]), HERE / "scores.parquet")
    card = json.loads((store / "corpora.json").read_text())
    text = pd.DataFrame(card["corpora"]).drop(columns=["versions"])
    tokens = [card["stores"][f"{domain}-train"]["num_tokens"] for domain in text["domain"]]
    write_table(text.assign(train_tokens=tokens, tokenizer=card["tokenizer"]), HERE / "text.csv")
    spent = []
    for name in plans:
        own = runs[runs["run_id"].map(piece_of) == name]
        files = [store / f"runs/{run_id}/timing.json" for run_id in own["run_id"]]
        times = pd.DataFrame([json.loads(f.read_text()) for f in files if f.exists()])
        sums = times.filter(regex="_s$").sum().round(1).add_prefix("core_")
        spent.append({"piece": name, "runs": len(own), "timed": len(times), "train_flops": own["train_flops"].sum()} | sums.to_dict())  # fmt: skip
    write_table(pd.DataFrame(spent), HERE / "spent.csv")


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    {"text": write_text, "tables": write_tables}[what](*map(Path, rest))

"""The same help pages in American and British spelling: text, plan and tables of a suite that varies the share of one.

    python data/spellings/make.py text HELP WORK     # HELP holds en-US and en-GB of Debian's libreoffice-help packages
    relscale sweep WORK/plan.json --store WORK/store --domains WORK/train/us WORK/train/gb --train-bytes 4000000 --heldout-bytes 30000 \
        --items WORK/items --tasks heldout text
    python data/spellings/make.py tables WORK/store

Pages whose text is the same in both are left out. Of the others, those whose names hash smallest are held out, in both
spellings alike; they are read whole, and their differing lines alone. Every second of the rest is trained on in American
spelling and the others in British: one page in both would count as a duplicate.
"""

import hashlib
import json
import re
import sys
from collections import Counter
from difflib import SequenceMatcher
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

from relscale.core import write_atomic
from relscale.plan.recipes import Plan, plan_isoflop, save_plan
from relscale.tables import read_table, write_table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "mini"))
from plan import RECIPE, SPARSE  # noqa: E402

SHARES = (0.0, 0.03, 0.1, 0.25, 0.5, 1.0)  # of British pages in training
SEEDS = (0, 1)
NUM_HELD_OUT = 64
HIDDEN = {"script", "style", "nav", "header", "footer", "head", "select", "button", "noscript"}
BREAKS = {"p", "div", "li", "tr", "td", "th", "h1", "h2", "h3", "h4", "h5", "h6", "br", "dt", "dd", "pre", "table"}  # fmt: skip


class Lines(HTMLParser):
    """The text of a page as a reader sees it, a block a line."""

    def __init__(self):
        super().__init__()
        self.parts, self.hidden = [], []

    def handle_starttag(self, tag, attrs):
        if tag in HIDDEN:
            self.hidden.append(tag)
        if tag in BREAKS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        if self.hidden and tag == self.hidden[-1]:
            self.hidden.pop()
        if tag in BREAKS:
            self.parts.append("\n")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def read_lines(page: Path) -> list[str]:
    """Lines of a page, without blank ones."""
    lines = Lines()
    lines.feed(page.read_text(encoding="utf-8"))
    return [" ".join(x.split()) for x in "".join(lines.parts).split("\n") if x.strip()]


def write_text(help_folder: Path, work: Path) -> None:
    """Training pages, held-out pages and the plan."""
    sides = {"us": help_folder / "en-US", "gb": help_folder / "en-GB"}
    names = set.intersection(
        *({p.relative_to(f).as_posix() for p in f.rglob("*.html")} for f in sides.values())
    )
    pages = {s: {n: read_lines(f / n) for n in sorted(names)} for s, f in sides.items()}
    common = Counter(line for lines in pages["us"].values() for line in set(lines))
    frame = {line for line, n in common.items() if n > len(names) / 2}  # of every page
    for own in pages.values():
        own.update({n: [x for x in lines if x not in frame] for n, lines in own.items()})
    differ = [n for n in names if pages["us"][n] != pages["gb"][n]]
    differ.sort(key=lambda n: hashlib.sha256(n.encode()).hexdigest())
    for side, own in pages.items():
        (other,) = set(pages) - {side}
        for k, name in enumerate(differ):
            file = re.sub(r"\W+", "-", name.removesuffix(".html")) + ".txt"
            if k >= NUM_HELD_OUT:
                if (k % 2 == 0) == (side == "us"):
                    write_atomic(work / "train" / side / file, "\n".join(own[name]) + "\n")
                continue
            alone = [x for x in own[name] if x not in set(pages[other][name])]
            write_atomic(work / "items" / f"{side}-pages" / file, "\n".join(own[name]) + "\n")
            if alone:
                write_atomic(work / "items" / f"{side}-lines" / file, "\n".join(alone) + "\n")
    plan = make_plan()
    write_atomic(work / "plan.json", save_plan(plan))
    print(f"{len(names)} pages, {len(differ)} differ; {len(plan.runs)} runs, {plan.train_flops:.3g} training FLOPs")  # fmt: skip


def make_plan() -> Plan:
    """Six shares, four budgets, four sizes, two seeds."""
    runs = []
    for share in SHARES:
        weights = [(d, w) for d, w in (("us", 1 - share), ("gb", share)) if w > 0]
        plan = plan_isoflop(
            SPARSE, RECIPE, corpora=(f"gb-{share:g}",), mixture=weights, seeds=SEEDS, min_sizes=4
        )
        runs.extend(plan.runs)
    return Plan(RECIPE, SPARSE, tuple(runs))


def carry_tables(store: Path) -> None:
    """Runs and scores of the sweep into this folder."""
    shares = {run.run_id: dict(run.mixture).get("gb", 0.0) for run in make_plan().runs}
    runs = read_table(store / "runs.parquet")
    runs["share_gb"] = runs["run_id"].map(shares)
    scores = read_table(store / "scores.parquet")
    scores = scores[(scores["metric"] == "bits_per_byte") & scores["run_id"].isin(shares)]
    write_table(runs, HERE / "runs.csv")
    write_table(scores, HERE / "scores.csv")
    card = json.loads((store / "corpora.json").read_text())
    text = pd.DataFrame(card["corpora"]).drop(columns=["versions"])
    text["train_tokens"] = [card["stores"][f"{d}-train"]["num_tokens"] for d in text["domain"]]
    for kind in ("pages", "lines"):
        held = {d: store.parent / "items" / f"{d}-{kind}" for d in text["domain"]}
        words = {d: [p.read_text().split() for p in sorted(f.iterdir())] for d, f in held.items()}
        text[f"{kind}_bytes"] = [
            sum(p.stat().st_size for p in held[d].iterdir()) for d in text["domain"]
        ]
        text[f"{kind}_words"] = [sum(map(len, words[d])) for d in text["domain"]]
        same = sum(
            block.size
            for pair in zip(*words.values(), strict=True)
            for block in SequenceMatcher(None, *pair, autojunk=False).get_matching_blocks()
        )
        text[f"{kind}_words_in_both"] = same
    write_table(text, HERE / "text.csv")


if __name__ == "__main__":
    {"text": write_text, "tables": carry_tables}[sys.argv[1]](*map(Path, sys.argv[2:]))

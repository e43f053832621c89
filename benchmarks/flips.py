"""What single flipped bits do to a finished study and to a half-finished sweep: noticed, harmless, or silent.

    python benchmarks/flips.py --number 1000 --csv data/faults

Each flip turns over one bit of one file of a fresh copy. Then `verify` looks, and the copy is reported on, one of its models
is opened and scored, and the sweep is run again, all in this process and as the commands do it; reports are compared by all that
they are drawn from, before laws are fitted to it and figures drawn. Whatever differs from the undamaged copy without a word is `silent`. Where damage was
named, `verify --repair` and the same sweep follow, and must end in the tables, results and models of the undamaged copy.

Flips of odd halves fall on a kind of file first, those of even ones on any byte. Numbers that stand in the table are
skipped, so the same command resumes; `--share 0/2` and `--share 1/2` divide it between two processes.
"""

import argparse
import contextlib
import csv
import dataclasses
import json
import logging
import os
import random
import re
import shutil
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

COLUMNS = (
    "number", "store", "kind", "file", "byte", "bit", "verify", "report", "eval", "sweep", "repaired", "end", "outcome", "said", "seconds",
)  # fmt: skip
WORDS = re.compile(
    "damaged|not what was written|gone|failed|retried|going back|cannot be read|again"
)


def one_thread(*_, **__):
    """In place of `open_executor`: runs are trained one after another in a thread of this process."""
    return ThreadPoolExecutor(1)


@contextlib.contextmanager
def in_process():
    """Sweeps without processes of their own, and without bars and pages."""
    from relscale import study
    from relscale.sweep import driver, suite

    sleep = time.sleep

    @contextlib.contextmanager
    def no_bar(runs):
        yield None

    with (
        mock.patch.object(driver, "open_executor", one_thread),
        mock.patch.object(suite, "progress_bar", no_bar),
        mock.patch.object(study, "progress_bar", no_bar),
        mock.patch.object(study, "_draw_what_finished", lambda *_: None),
        mock.patch.object(time, "sleep", lambda seconds: sleep(min(seconds, 0.05))),
    ):
        yield


def study_config():
    from relscale.study import StudyConfig

    return StudyConfig(
        ("bible", "licences"), "bible", (1.2e9, 2.4e9, 4.8e9), vocab=300, seq_len=32, min_sizes=2,
        train_bytes=60_000, heldout_bytes=3_000,
    )  # fmt: skip


def half_plan():
    from relscale.plan.recipes import SMALL, plan_isoflop

    recipe = dataclasses.replace(SMALL, vocab=300, seq_len=32, max_sizes=2)
    return plan_isoflop((6e8,), recipe, corpora=("all",), seeds=(0, 1, 2))


def half_text():
    from relscale.sweep.prepare import TextConfig

    return TextConfig(("bible", "licences"), 60_000, 3_000)


# ---- the two stores


class Study:
    """A finished study."""

    name = "finished study"

    def make(self, where: Path) -> None:
        self.sweep(where)

    def sweep(self, where: Path) -> list[str]:
        from relscale.study import run_study

        said = []
        result = run_study(study_config(), where, num_workers=1, say=said.append)
        return [*filter(WORDS.search, said[1:]), *result.failed.values()]

    def report(self, where: Path) -> object:
        """All that `relscale report` draws from: choices, tables, and what stands beside them on the page."""
        from relscale.study import read_config, report_sections
        from relscale.tables import read_table

        config = read_config(where)
        tables = [read_table(where / f"{name}.parquet").to_csv() for name in ("runs", "scores")]
        sections = report_sections(where, config)
        if re.search(r", of \d+ of \d+", sections["Machine"].to_csv()):  # the page itself says so
            warnings.warn("core time: not of all runs, a time is damaged", stacklevel=1)
        return [config, tables, {k: v.to_csv() for k, v in sections.items()}]

    def runs(self) -> list[str]:
        from relscale.study import study_plan

        return [run.run_id for run in study_plan(study_config()).runs]


class Half:
    """A sweep that was cut off: one run finished, one stopped half way with two checkpoints, one that waits."""

    name = "half-finished sweep"

    def make(self, where: Path) -> None:
        from relscale.sweep import suite
        from relscale.sweep.attempts import execute
        from relscale.sweep.prepare import prepare_text
        from relscale.sweep.store import connect

        plan, text, store = half_plan(), half_text(), connect(where)
        suite.settle(store, plan, text)
        card = prepare_text(store, text, plan.runs[0].model.vocab)
        job = suite.suite_job(where, card, checkpoint_s=0.0)
        runs = suite.fill_mixtures(plan.runs, text.domain_names)
        assert execute(job, runs[0]).outcome == "finished"
        asked = iter([False] * 3)
        with mock.patch.object(suite, "ending", lambda: next(asked, True)):
            assert execute(job, runs[1]).outcome == "preempted"

    def sweep(self, where: Path) -> list[str]:
        from relscale.sweep.suite import run_suite

        said = []
        result = run_suite(half_plan(), where, half_text(), num_workers=1, say=said.append)
        said = [*said, *result.notes, *result.reasons().values()]
        return [line for line in said if WORDS.search(line) and not line.startswith("core time")]

    def report(self, where: Path) -> object:
        """Its status, as `relscale status` shows it."""
        from relscale.sweep.status import sweep_status

        columns = ["state", "done", "loss_nats", "reason"]
        table = sweep_status(where).summary()[columns].sort_index().to_csv()
        if "damaged" in table:  # the table itself says so
            warnings.warn(table, stacklevel=1)
        return table

    def runs(self) -> list[str]:
        return [run.run_id for run in half_plan().runs]


def score(where: Path, run_id: str) -> object:
    """A model opened as `relscale eval` opens it: its fingerprint, and the log-likelihood of a text."""
    import numpy as np

    from relscale.eval.bits import score_documents
    from relscale.model.open import model_fingerprint, open_model

    opened = open_model(where / "runs" / run_id)
    ids = np.array(
        [opened.start_token, *opened.tokenizer.encode("In the beginning was the word.").ids]
    )
    documents = [(ids, np.r_[0, np.ones(len(ids) - 1, int)])]
    nats = score_documents(
        opened.model, documents, window=opened.window, context=opened.window // 4
    ).nats
    return [model_fingerprint(opened), opened.window, np.asarray(nats).tolist()]


def ends(where: Path, runs: list[str]) -> dict[str, bytes]:
    """Tables, results and scores of a swept store, byte for byte."""
    names = [where / "runs.parquet", where / "scores.parquet"]
    for run_id in runs:
        base = where / "runs" / run_id
        names += [base / "result.json", *sorted((base / "scores").glob("*.json"))]
    return {str(p.relative_to(where)): p.read_bytes() for p in names if p.exists()}


# ---- flips


def kind_of(name: str) -> str:
    """The kind of a file: its name without the run, the step and the parts of an array."""
    name = re.sub(r"^runs/[^/]+", "runs/RUN", name)
    name = re.sub(r"^tokens/[^/]+", "tokens/STORE", name)
    name = re.sub(r"checkpoints/\d+", "checkpoints/STEP", name)
    name = re.sub(r"(/d|/ocdbt.process_\d+/d)/[0-9a-f]+$", r"\1/DATA", name)
    return re.sub(r"(?<=/c/)\d+$", "N", name)


def choose(folder: Path, rng: random.Random, by_kind: bool) -> tuple[str, int, int]:
    """A file, a byte and a bit."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(files)}
    sizes = {
        n: s for n, s in sizes.items() if s and not any(x.startswith(".") for x in n.split("/"))
    }
    if by_kind:
        kind = rng.choice(sorted({kind_of(name) for name in sizes}))
        name = rng.choice([name for name in sizes if kind_of(name) == kind])
    else:
        name = rng.choices(list(sizes), weights=list(sizes.values()))[0]
    return name, rng.randrange(sizes[name]), rng.randrange(8)


def flip(path: Path, byte: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def attempt(do, wanted) -> tuple[str, str]:
    """How a step went, `same`, `named`, `silent` or `crash`, and what was said."""
    from relscale.core import UserError

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            got = do()
        except UserError as error:
            return "named", str(error)
        except (Exception, SystemExit) as error:
            return "crash", f"{type(error).__name__}: {error}"
    said = [str(w.message) for w in caught if WORDS.search(str(w.message))]
    if said or (wanted is None and got):
        return "named", "; ".join(said or got)
    return ("same" if wanted is None or got == wanted else "silent"), ""


class Lab:
    """The undamaged stores, and what is read from them."""

    def __init__(self, work: Path, stores: tuple[str, ...] = ("study", "half")):
        self.work, self.base, self.whole = work, {}, {}
        self.stores = {key: {"study": Study, "half": Half}[key]() for key in stores}
        for key, store in self.stores.items():
            where = self.base[key] = work / key
            if not (work / f"{key}.made").exists():
                shutil.rmtree(where, ignore_errors=True)
                store.make(where)
                (work / f"{key}.made").touch()
            with self.copy(key, "whole") as there:
                report, first = store.report(there), {}
                for run_id in store.runs():
                    if (there / "runs" / run_id / "model").is_dir():
                        first[run_id] = score(there, run_id)
                assert store.sweep(there) == []
                self.whole[key] = {
                    "report": report,
                    "eval": first,
                    "ends": ends(there, store.runs()),
                    "models": {run_id: score(there, run_id) for run_id in store.runs()},
                }

    @contextlib.contextmanager
    def copy(self, key: str, name: str):
        where = self.work / f"{name}-{os.getpid()}" / key  # a study's name is in its report
        shutil.rmtree(where.parent, ignore_errors=True)
        shutil.copytree(self.base[key], where)
        try:
            yield where
        finally:
            shutil.rmtree(where.parent, ignore_errors=True)

    def one(self, number: int) -> dict:
        """Flip one bit, and see what comes of it."""
        from relscale.sweep.verify import verify_store

        rng, begun = random.Random(number), time.monotonic()
        key = list(self.stores)[number % len(self.stores)]
        store, whole = self.stores[key], self.whole[key]
        with self.copy(key, "flip") as where:
            name, byte, bit = choose(where, rng, by_kind=number % 4 < 2)
            flip(where / name, byte, bit)
            run_id = name.split("/")[1] if name.startswith("runs/") else ""
            run_id = run_id or rng.choice(sorted(whole["eval"]))
            scored = run_id if run_id in whole["eval"] else min(whole["eval"])
            found = verify_store(where)
            seen = [p for p in found.parts if p.state in ("damaged", "missing")]
            steps = {
                "report": attempt(lambda: store.report(where), whole["report"]),
                "eval": attempt(lambda: score(where, scored), whole["eval"][scored]),
                "sweep": attempt(lambda: store.sweep(where), None),
            }
            told = bool(seen) or any(how == "named" for how, _ in steps.values())
            repaired = told and not self.at_end(where, key, run_id)
            if repaired:
                verify_store(where, repair=True)
                attempt(lambda: store.sweep(where), None)
            end = "same" if self.at_end(where, key, run_id) else "differs"
        how = [step for step, _ in steps.values()]
        told = "named" in how
        outcome = "crash" if "crash" in how else "silent" if "silent" in how or end == "differs" and not told else (
            "not mended" if end == "differs" else "named" if told else "found by verify alone" if seen else "never read"
        )  # fmt: skip
        said = next((s for _, s in steps.values() if s), seen[0].means if seen else "")
        return {
            "number": number, "store": store.name, "kind": kind_of(name), "file": name, "byte": byte, "bit": bit,
            "verify": seen[0].state if seen else "whole", **{step: how for step, (how, _) in steps.items()},
            "repaired": repaired, "end": end, "outcome": outcome,
            "said": " ".join(said.replace(str(where), "STORE").split())[:160], "seconds": round(time.monotonic() - begun, 1),
        }  # fmt: skip

    def at_end(self, where: Path, key: str, run_id: str) -> bool:
        """Whether tables, results, scores and one model of a swept copy are those of the undamaged one."""
        whole, model = self.whole[key], Path("runs", run_id, "model")
        if ends(where, self.stores[key].runs()) != whole["ends"]:
            return False
        mine, base = (
            {p.relative_to(w): p.read_bytes() for p in (w / model).rglob("*") if p.is_file()}
            for w in (where, self.base[key])
        )
        if mine == base:
            return True
        with contextlib.suppress(Exception):
            return score(where, run_id) == whole["models"][run_id]
        return False


def campaign(csv_path: Path, work: Path, number: int, share: tuple[int, int] = (0, 1)) -> None:
    """Flips 0 to `number` - 1 that are not in the table yet, a row each."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    logging.disable(logging.ERROR)
    work.mkdir(parents=True, exist_ok=True)
    if not csv_path.exists():
        csv_path.write_text(",".join(COLUMNS) + "\n")
    with csv_path.open() as file:
        done = {int(row["number"]) for row in csv.DictReader(file)}
    trying = work / f"trying-{share[0]}"
    lost = int(trying.read_text()) if trying.exists() else None
    with in_process():
        lab = Lab(work)
        for n in (n for n in range(number) if n % share[1] == share[0] and n not in done):
            trying.write_text(str(n))
            row = (
                {"number": n, "outcome": "crash", "said": "the process died"}
                if n == lost
                else lab.one(n)
            )
            with csv_path.open("a", newline="") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
            print(
                json.dumps(
                    {k: row.get(k) for k in ("number", "kind", "outcome", "seconds", "said")}
                ),
                flush=True,
            )
    trying.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--csv", type=Path, default=Path("data/faults"), help="folder for flips.csv"
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "relscale-flips"))
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--share", default="0/1", help="this process's part, such as 0/2")
    options = parser.parse_args()
    mine, of = map(int, options.share.split("/"))
    campaign(options.csv / "flips.csv", options.work.absolute(), options.number, (mine, of))
    import pandas as pd

    rows = pd.read_csv(options.csv / "flips.csv")
    print(pd.crosstab(rows["store"], rows["outcome"]).to_string(), file=sys.stderr)


if __name__ == "__main__":
    main()

"""The front door: `import relscale as rs` shows the library, costs nothing, and each function of it has an example that runs."""

import ast
import doctest
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import relscale as rs

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = [name for name in rs._HOME if callable(getattr(rs, name)) and name != "UserError"]


def run(code: str, **options) -> str:
    done = subprocess.run([sys.executable, *code], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_door_costs_nothing_until_a_name_is_used():
    code = (
        "import sys, relscale as rs\n"
        "dir(rs), rs.__version__, rs.laws\n"
        "heavy = {'numpy', 'pandas', 'scipy', 'jax', 'matplotlib', 'lmfit'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "rs.fit_relative\n"
        "print('pandas' in sys.modules, 'jax' in sys.modules)"
    )
    assert run(["-c", code]).splitlines() == ["[]", "True False"]


def test_every_name_is_where_the_door_says():
    shown = set(dir(rs))
    assert shown == set(rs.__all__) and len(rs.__all__) == len(shown)
    for name, module in rs._HOME.items():
        home = importlib.import_module(f"relscale.{module}")
        assert getattr(rs, name) is getattr(home, name)
        assert name in home.__all__ and not isinstance(getattr(rs, name), ModuleType)
    for wing in rs._WINGS:
        package = getattr(rs, wing)
        there = {p.stem for p in (ROOT / "relscale" / wing).glob("[!_]*.py")}
        assert set(package.__all__) == there == set(dir(package))
        assert all(getattr(package, room).__name__ == f"relscale.{wing}.{room}" for room in there)
    assert set(rs._ROOMS) == {p.stem for p in (ROOT / "relscale").glob("[!_]*.py")}


def test_the_version_is_that_of_the_settings():
    line = re.search(r"^version = (.+)$", (ROOT / "settings.ini").read_text(), re.MULTILINE)
    assert rs.__version__ == line[1]


def test_unknown_names_are_attribute_errors():
    for place in (rs, rs.laws):
        with pytest.raises(AttributeError, match="has no attribute 'fit_cubic'"):
            place.fit_cubic  # noqa: B018


def test_editors_see_what_the_door_shows():
    """What type checkers read stands beside the table, name for name."""
    tree = ast.parse((ROOT / "relscale/__init__.py").read_text())
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    seen = {a.name: n.module.removeprefix("relscale.") for n in block.body for a in n.names}
    assert seen == rs._HOME
    assert (ROOT / "relscale/py.typed").exists()


def test_no_function_shares_its_modules_name():
    for path in (ROOT / "relscale").rglob("[!_]*.py"):
        named = {n.name for n in ast.parse(path.read_text()).body if hasattr(n, "name")}
        assert path.stem not in named, path


def test_a_missing_extra_is_one_line():
    code = (
        "import sys; sys.modules['jax'] = None\n"
        "import relscale as rs\n"
        "try: rs.open_model\n"
        "except rs.UserError as error: print(error)"
    )
    (line,) = run(["-c", code]).splitlines()
    assert "pip install 'relscale[train]'" in line


def test_the_package_is_a_command():
    assert run(["-m", "relscale", "--version"]) == f"relscale {rs.__version__}"


# --- examples


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with one of everything, for the examples in docstrings."""
    folder = tmp_path_factory.mktemp("desk")
    flops = [1e18, 1e19, 1e20, 1e21, 1e22]
    slopes = {"usa": -0.05, "india": -0.055, "kenya": -0.045}
    wiggle = [0.001, -0.002, 0.0015, -0.001, 0.0005]
    rows = [
        {"group": g, "train_flops": f, "value": round(a * (f / 1e18) ** b * (1 + (1 + i) * w), 6)}
        for i, ((g, b), a) in enumerate(zip(slopes.items(), (1.0, 1.2, 1.3), strict=True))
        for f, w in zip(flops, wiggle, strict=True)
    ]
    pd.DataFrame(rows).to_csv(folder / "evals.csv", index=False)

    simulate = rs.laws.simulate
    groups = {
        "text": simulate.Surface(2.0, 0.20),
        "code": simulate.Surface(1.3, 0.25),
        "speech": simulate.Surface(2.3, 0.15),
    }
    design = simulate.Design(num_sizes=4)
    runs, scores = simulate.simulate_suite(groups, design, seed=0)
    rs.write_table(runs, folder / "runs.csv")
    rs.write_table(scores, folder / "scores.csv")

    pd.DataFrame(
        {
            "Name": ["a", "b", "c"],
            "State": ["finished", "finished", "crashed"],
            "flops": [1e18, 1e19, 1e20],
            "params": [1e8, 3e8, 1e9],
            "tokens": [1.7e9, 5.6e9, 1.7e10],
            "bpb/usa": [1.0, 0.9, 0.8],
            "bpb/india": [1.2, 1.05, 0.9],
        }
    ).to_csv(folder / "wandb.csv", index=False)

    (folder / "results/org__a").mkdir(parents=True)
    results = {
        "results": {"arc_easy": {"acc,none": 0.6, "acc_stderr,none": 0.01, "alias": "arc_easy"}},
        "higher_is_better": {"arc_easy": {"acc": True}},
        "versions": {"arc_easy": 1.0}, "n-shot": {"arc_easy": 0},
        "n-samples": {"arc_easy": {"original": 2376, "effective": 2376}},
        "configs": {"arc_easy": {"num_fewshot": 0}}, "group_subtasks": {},
        "config": {"model": "hf", "model_args": "pretrained=org/a"}, "model_name": "org/a",
    }  # fmt: skip
    path = folder / "results/org__a/results_2025-03-01T00-00-00.000001.json"
    path.write_text(json.dumps(results))

    for name, words in {"news": "The river rose and the bridge was shut. ", "code": "for i in range(10): print(i) "}.items():  # fmt: skip
        (folder / "texts" / name).mkdir(parents=True)
        for i in range(3):
            (folder / "texts" / name / f"{i}.txt").write_text(f"{i}. {words * 5}")
    tiny_model(folder / "model")
    (folder / "plan.json").write_text(rs.plan.recipes.save_plan(tiny_plan()))
    return folder


def tiny_model(folder: Path) -> None:
    import jax

    spec = rs.plan.spec.ModelSpec(
        hidden=64, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32, mlp=128, vocab=300
    )
    words = "Loch, tarn and swamp are waters; burn, beck and slough run down to them. "
    tokenizer = rs.text.tokenizer.train_tokenizer([words] * 9, 300)
    model = rs.model.decoder.init_model(spec, key=jax.random.key(0))
    rs.model.hub.save_hf(model, folder, tokenizer=tokenizer, max_positions=512)


def tiny_plan():
    import dataclasses

    recipe = dataclasses.replace(rs.plan.recipes.SMALL, vocab=512)
    plan = rs.plan_isoflop([2e10], recipe, mixture=(("bible", 0.5), ("licences", 0.5)))
    return dataclasses.replace(plan, runs=plan.runs[:2])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of(name, desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    function = getattr(rs, name)
    text = inspect.getdoc(function)
    test = doctest.DocTestParser().get_doctest(
        text, {"rs": rs, "np": np, "pd": pd}, name, None, None
    )
    assert 1 <= len(test.examples) <= 6, "an example of a line or two"
    assert "+SKIP" not in text
    said = []
    with pd.option_context("display.width", 100, "display.max_columns", 12):
        runner = doctest.DocTestRunner(
            optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS, verbose=False
        )
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
    assert os.getcwd() == str(desk)

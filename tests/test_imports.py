"""The analysis half starts at once and without JAX."""

import subprocess
import sys
from pathlib import Path

import relscale

PACKAGE = Path(relscale.__file__).parent
ANALYSIS = [
    *(path.stem for path in sorted(PACKAGE.glob("[!_]*.py"))),
    *(f"{wing}.{path.stem}" for wing in ("plan", "laws") for path in sorted(PACKAGE.glob(f"{wing}/[!_]*.py"))),
]  # fmt: skip
HEAVY = ("jax", "equinox", "lmfit", "matplotlib.pyplot", "scipy.stats")


EACH = """
import importlib, os, sys
import pandas, pyarrow  # what all stand on, once
heavy, modules = eval(sys.argv[1]), sys.argv[2:]
assert not [m for m in heavy if m in sys.modules]
for module in modules:
    if not (child := os.fork()):
        importlib.import_module(f"relscale.{module}")
        if found := [m for m in heavy if m in sys.modules]:
            print(module, *found, flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(module, "cannot be imported", flush=True)
"""


def test_no_heavy_import():
    """JAX must never come in; lmfit, pyplot and scipy.stats cost about a second each and come in when used."""
    done = subprocess.run([sys.executable, "-c", EACH, repr(HEAVY), *ANALYSIS], capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_analysis_works_where_jax_cannot_be_imported():
    code = (
        "import sys; sys.modules['jax'] = None\n"
        "from relscale.suites import load_suite\n"
        "from relscale.laws.isoflop import fit_isoflop\n"
        "rows = load_suite('held2025')\n"
        "print(len(fit_isoflop(rows[rows.corpus == 'dclm'], error='paloma_macro_loss').optima))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "7"


def test_the_command_line_starts_without_pandas():
    """Its import takes longer than all of `relscale --help`."""
    code = "import sys, relscale.cli; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_relative_imports_in_a_second():
    """Pandas is most of it. Seconds of the processor, so that a busy machine does not count; best of three."""
    code = "import time; t = time.process_time(); import relscale.laws.relative; print(time.process_time() - t)"
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(3)
    ]
    print(f"import relscale.laws.relative: {min(times):.2f} s")
    assert min(times) < 1.0, times

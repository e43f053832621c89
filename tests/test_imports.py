"""The analysis half starts at once and without JAX."""

import subprocess
import sys
from pathlib import Path

import pytest

import relscale

PACKAGE = Path(relscale.__file__).parent
ANALYSIS = [
    *(path.stem for path in sorted(PACKAGE.glob("[!_]*.py"))),
    *(f"{wing}.{path.stem}" for wing in ("plan", "laws") for path in sorted(PACKAGE.glob(f"{wing}/[!_]*.py"))),
]  # fmt: skip
HEAVY = ("jax", "equinox", "lmfit", "matplotlib.pyplot", "scipy.stats")


@pytest.mark.parametrize("module", ANALYSIS)
def test_no_heavy_import(module):
    """JAX must never come in; lmfit, pyplot and scipy.stats cost about a second each and come in when used."""
    code = f"import sys, relscale.{module}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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

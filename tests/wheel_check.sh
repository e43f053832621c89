#!/usr/bin/env bash
# Build sdist and wheel, install the wheel alone into an empty environment, and use it from elsewhere.
# Shows what a checkout hides: missing files, undeclared requirements, JAX in the analysis half.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="$PWD/.venv/bin/python"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "wheel check: $*" >&2
    exit 1
}

"$python" -m build --outdir "$scratch/dist" . >"$scratch/log" 2>&1 </dev/null ||
    { tail -n 30 "$scratch/log" >&2; fail "sdist and wheel do not build"; }
# The same sources give the same bytes, whatever the clocks of their files.
mkdir "$scratch/again"
git ls-files -z --cached --others --exclude-standard settings.ini setup.py MANIFEST.in LICENSE README.md relscale data tests |
    xargs -0 cp --parents --target-directory="$scratch/again"
find "$scratch/again" -exec touch -d 2001-09-09 {} +
"$python" -m build --outdir "$scratch/dist2" "$scratch/again" >"$scratch/log" 2>&1 </dev/null ||
    { tail -n 30 "$scratch/log" >&2; fail "a copy of the sources does not build"; }
for file in "$scratch"/dist/*; do
    cmp -s "$file" "$scratch/dist2/${file##*/}" || fail "${file##*/}: a second build gives other bytes"
done

# The ten lines of the front page, as a newcomer would copy them.
"$python" - "$scratch/ten_lines.py" <<'EOF'
import json
import pathlib
import sys

cells = json.loads(pathlib.Path("nbs/index.ipynb").read_text())["cells"]
code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
shown = [c for c in code if not c.lstrip().startswith(("# | hide", "#| hide"))]
pathlib.Path(sys.argv[1]).write_text("\n".join(shown))
EOF

"$python" -m venv "$scratch/venv"
bin="$scratch/venv/bin"
"$bin/python" -m pip install --quiet --disable-pip-version-check "$scratch"/dist/*.whl </dev/null ||
    fail "the wheel does not install"

mkdir "$scratch/elsewhere"
cd "$scratch/elsewhere"
unset PYTHONPATH

"$bin/python" - "$scratch/venv" <<'EOF' || fail "the installed package does not work on its own"
import importlib.util
import pathlib
import sys

import relscale
from relscale.core import UserError
from relscale.suites import load_scores, load_suite

home = pathlib.Path(relscale.__file__).resolve()
assert home.is_relative_to(pathlib.Path(sys.argv[1]).resolve()), f"imported from {home}"
rows = len(load_suite("held2025"))
assert rows == 255, f"held2025 has {rows} rows, and 255 were published"
assert set(load_scores("laptop")["run_id"]) == set(load_suite("laptop")["run_id"])
for name in ("jax", "pyarrow"):
    assert importlib.util.find_spec(name) is None, f"base requirements bring {name}"
try:
    load_scores("olmo_ladder")
    raise AssertionError("Parquet is read without its extra")
except UserError as error:
    assert "relscale[parquet]" in str(error), error
assert "matplotlib" not in sys.modules, "reading a table imports matplotlib"
EOF
MPLBACKEND=agg "$bin/python" "$scratch/ten_lines.py" || fail "the front page's ten lines do not run"
if "$bin/python" -c 'import jax' 2>/dev/null; then fail "base requirements bring JAX"; fi

# The first start compiles to bytecode, so the best of three is what a user waits.
"$bin/python" - "$bin/relscale" <<'EOF' || fail "relscale --help: fails, or takes a second or more"
import subprocess
import sys
import time

seconds = []
for _ in range(3):
    start = time.perf_counter()
    done = subprocess.run([sys.argv[1], "--help"], capture_output=True, text=True)
    seconds.append(time.perf_counter() - start)
    if done.returncode or "study" not in done.stdout:
        sys.exit(f"exit {done.returncode}: {done.stdout}{done.stderr}")
print(f"relscale --help: {min(seconds):.2f} s, best of 3")
sys.exit(min(seconds) >= 1)
EOF

if "$bin/relscale" study --out x >"$scratch/out" 2>"$scratch/err" </dev/null; then
    fail "relscale study works without the extra that it needs"
fi
[[ $(wc -l <"$scratch/err") -eq 1 ]] && grep -qF 'relscale[train]' "$scratch/err" ||
    { tail -n 20 "$scratch/err" >&2; fail "relscale study: expected one line that names relscale[train]"; }
[[ ! -e x ]] || fail "relscale study left files behind before it refused"
echo "wheel check: fine"

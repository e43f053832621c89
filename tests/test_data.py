"""Shipped data are what was shipped: every file of `data/` against its SHA-256."""

import hashlib
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
LIST = DATA / "SHA256SUMS"  # as sha256sum writes it
MEND = "if it was meant, run `make data-sums`"


def listed() -> dict[str, str]:
    lines = LIST.read_text().splitlines()
    return {name.strip(): digest for digest, name in (line.split("  ") for line in lines)}


def test_every_shipped_file_is_listed_and_is_what_it_was():
    files = {p.relative_to(DATA).as_posix(): p for p in DATA.rglob("*") if p.is_file()}
    files = {n: p for n, p in files.items() if p != LIST and "__pycache__" not in n}
    wanted = listed()
    assert set(files) == set(wanted), f"{sorted(set(files) ^ set(wanted))}: {MEND}"
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == wanted[name], (
            f"{name} changed: {MEND}"
        )

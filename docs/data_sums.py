"""SHA-256 of every shipped file, in the form of sha256sum: data/SHA256SUMS."""

import hashlib
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
files = sorted(p for p in DATA.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
lines = [
    f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(DATA).as_posix()}\n"
    for p in files
    if p.name != "SHA256SUMS"
]
(DATA / "SHA256SUMS").write_text("".join(lines))

"""Carry the tables of a study into `data/laptop`: python data/laptop/make.py STUDY_FOLDER."""

import json
import sys
from pathlib import Path

import pandas as pd

from relscale.runs import write_table

study, here = Path(sys.argv[1]), Path(__file__).parent
for name in ("runs", "scores"):
    write_table(pd.read_parquet(study / f"{name}.parquet"), here / f"{name}.csv")
card = json.loads((study / "corpora.json").read_text())
text = pd.DataFrame(card["corpora"]).drop(columns=["versions"]).assign(tokenizer=card["tokenizer"])
write_table(text, here / "text.csv")

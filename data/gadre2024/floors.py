"""Write floors.csv: surfaces with floors of three texts on three corpora, whole and without each size: python data/gadre2024/floors.py"""

from pathlib import Path

import pandas as pd

import relscale as rs

TEXTS = ("paloma_c4_en", "paloma_redpajama", "paloma_refinedweb")


def main() -> None:
    rows = rs.join_scores(
        rs.load_suite("gadre2024"),
        rs.load_scores("gadre2024"),
        task="text",
        metric="nats_per_token",
    )
    cell = ["size", "token_multiplier", "group"]
    rows = rows[rows.groupby(cell)["corpus"].transform("nunique") == 3]
    rows, found = rows[rows["group"].isin(TEXTS)], []
    for left_out in ["none", *rows["size"].unique()]:
        kept = rows[rows["size"] != left_out]
        for (corpus, text), part in kept.groupby(["corpus", "group"]):
            fit = rs.fit_chinchilla(part, error="value")
            values = {name: fit.values[name] for name in ("E", "alpha", "beta")}
            found.append({"left_out": left_out, "corpus": corpus, "group": text} | values)
    rs.write_table(pd.DataFrame(found), Path(__file__).parent / "floors.csv")


if __name__ == "__main__":
    main()

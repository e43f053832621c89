"""Fit every relative law of every suite that ships, into slopes.csv: python data/slopes/make.py"""

from pathlib import Path

from relscale.suite_slopes import fit_slopes
from relscale.tables import write_table

if __name__ == "__main__":
    table = fit_slopes()
    numbers = table.select_dtypes("number").columns
    table[numbers] = table[numbers].map(lambda v: float(f"{v:.6g}"))
    counts = [name for name in numbers if name.startswith("num_")]
    table[counts] = table[counts].astype("Int64")
    write_table(table, Path(__file__).with_name("slopes.csv"))
    print(f"{len(table)} laws of {table['suite'].nunique()} suites")

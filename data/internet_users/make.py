"""Make users.csv: python data/internet_users/make.py path/to/english_internet_users.csv"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from relscale.tables import write_table


def main(source: str) -> None:
    raw = pd.read_csv(source, keep_default_na=False, na_values=[""])  # NA is no country here
    share = raw.internet_percent / 100
    product = share * raw.english_percent / 100 * raw.population_year
    simple = share * raw.population_2023
    for made, said in (
        (product, raw.english_internet_users),
        (simple, raw.author_code_internet_users_2023pop),
    ):
        assert (made.isna() == said.isna()).all() and np.nanmax(np.abs(made - said)) <= 0.51
    assert not raw.duplicated(["iso3", "year"]).any() and set(raw.year) == {1995, 2000, 2005}
    counts = dict.fromkeys(
        ("english_internet_users", "author_code_internet_users_2023pop"), "Int64"
    )
    users = raw.astype(counts).sort_values(["iso3", "year"], ignore_index=True)
    write_table(users, Path(__file__).with_name("users.csv"))


if __name__ == "__main__":
    main(sys.argv[1])

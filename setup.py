"""Packaging of relscale: names, versions and requirements live in settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

users = ("train", "hub", "datasets", "harness", "objects", "slurm", "ray", "dask")
names = (*users, "tensorboard", "wandb", "parity", "docs", "dev")
extras = {name: cfg[f"{name}_requirements"].split() for name in names}
extras["all"] = sorted({r for n in users for r in extras[n]})

# `data/` sits beside the package in a checkout and inside it in a wheel.
data_files = [
    p.relative_to(here / "data").as_posix() for p in (here / "data").rglob("*") if p.is_file()
]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    keywords=cfg["keywords"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
    ],
    python_requires=f">={cfg['min_python']}",
    packages=[*find_packages(include=["relscale", "relscale.*"]), "relscale.data"],
    package_dir={"relscale.data": "data"},
    package_data={"relscale": ["*.j2"], "relscale.data": data_files},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
    },
    zip_safe=False,
)

"""Packaging of relscale: names, versions and requirements live in settings.ini."""

import gzip
import io
import os
import tarfile
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

here = Path(__file__).parent
# One date for every file of a wheel and of a source archive, so that the same sources give the same bytes.
os.environ.setdefault("SOURCE_DATE_EPOCH", "1767225600")  # 2026-01-01


class ReproducibleSdist(sdist):
    """A source archive without clocks, owners or the order of a disk."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        if format != "gztar":
            raise SystemExit(f"sdist --formats={format}: only gztar is made")
        folder, epoch = Path(root_dir or ".", base_dir), int(os.environ["SOURCE_DATE_EPOCH"])
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                info = tarfile.TarInfo((Path(base_dir) / path.relative_to(folder)).as_posix())
                info.size, info.mtime = path.stat().st_size, epoch
                info.mode = 0o755 if os.access(path, os.X_OK) else 0o644
                with open(path, "rb") as file:
                    archive.addfile(info, file)
        target = Path(f"{base_name}.tar.gz")
        target.write_bytes(gzip.compress(packed.getvalue(), mtime=epoch))
        return str(target)


config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

users = (
    "train", "hub", "gguf", "datasets", "harness", "objects", "parquet", "excel", "slurm", "ray", "dask",
)  # fmt: skip
names = (*users, "tpu", "cuda", "tensorboard", "wandb", "parity", "docs", "dev")
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
    package_data={"relscale": ["*.j2", "py.typed"], "relscale.data": data_files},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
    },
    cmdclass={"sdist": ReproducibleSdist},
    zip_safe=False,
)

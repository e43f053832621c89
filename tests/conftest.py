"""Arms the shapes in signatures: where beartype is installed, every test checks each call's arrays.

Checks happen while a step is traced, so a compiled step costs the same. Only processes of pytest itself
are armed, and notebooks are not.
"""

import importlib.util

import pytest

ARMED = tuple(
    f"relscale.model.{name}" for name in ("checkpoints", "decoder", "mesh", "optim", "training")
)

if importlib.util.find_spec("beartype") and importlib.util.find_spec("jaxtyping"):
    from jaxtyping import install_import_hook

    install_import_hook(ARMED, "beartype.beartype")

# The longest files first, so that neither of two workers is left with one of them at the end.
LONG = (
    "test_study", "test_sweep_command", "test_store", "test_sweep", "test_clusters", "test_faults", "test_train_parallel",
    "test_eval_command", "test_requests", "test_prefix", "test_harness", "test_suite_tasks", "test_hostile",
)  # fmt: skip


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run what `make long` is for")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "long: the better part of a minute alone; run by `make long`"
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        left_out = pytest.mark.skip(reason="long: run by `make long`")
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(left_out)
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))

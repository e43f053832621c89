"""Arms the shapes in signatures: where beartype is installed, every test checks each call's arrays.

Checks happen while a step is traced, so a compiled step costs the same. Only processes of pytest itself
are armed, and notebooks are not.
"""

import importlib.util

ARMED = ("relscale.model", "relscale.optim", "relscale.placement", "relscale.train")

if importlib.util.find_spec("beartype") and importlib.util.find_spec("jaxtyping"):
    from jaxtyping import install_import_hook

    install_import_hook(ARMED, "beartype.beartype")

"""Relative scaling laws: who gains from scale, and by how much.

`import relscale as rs` costs nothing: what stands below is imported when it is first used. A wing leads
to its modules in the same way, as in `rs.laws.intervals.t_critical`.
"""

from typing import TYPE_CHECKING

from relscale._lazy import room
from relscale._version import __version__


if TYPE_CHECKING:  # for editors and type checkers; a test holds it against the table
    from relscale.suites import load_suite, load_scores, load_items
    from relscale.tables import read_table, write_table, join_scores
    from relscale.importers import from_table, read_points
    from relscale.wandb_exports import from_wandb
    from relscale.lm_eval import from_lm_eval
    from relscale.other_tools import from_evaluations
    from relscale.laws.isoflop import fit_isoflop
    from relscale.laws.frontiers import frontier
    from relscale.laws.curves import fit_power_law, fit_saturating_law
    from relscale.laws.surface import fit_chinchilla
    from relscale.laws.relative import fit_relative
    from relscale.laws.conformal import forecast_members
    from relscale.laws.forecast import fit_forecast
    from relscale.laws.backtests import backtest
    from relscale.laws.diagnosis import diagnose
    from relscale.laws.power import plan_power
    from relscale.laws.contrasts import find_crossings, fit_covariate
    from relscale.laws.formats import compare_formats
    from relscale.laws.recipes import compare
    from relscale.laws.hero import forecast_hero
    from relscale.laws.item_tables import read_items
    from relscale.laws.item_gaps import fit_items
    from relscale.analysis import analyse, analyse_points
    from relscale.report import write_report
    from relscale.figures import save_figure
    from relscale.table_fit import fit
    from relscale.table_audit import audit
    from relscale.plan.recipes import plan_isoflop, HELD2025, load_plan
    from relscale.plan.cost import estimate_cost
    from relscale.sweep.suite import run_suite
    from relscale.model.open import open_model
    from relscale.eval.evaluation import evaluate
    from relscale.core import UserError
    from relscale.style import use_style

# The door: which module each name lives in.
_HOME = {
    name: module
    for module, names in {
        "suites": "load_suite load_scores load_items",
        "tables": "read_table write_table join_scores",
        "importers": "from_table read_points",
        "wandb_exports": "from_wandb",
        "lm_eval": "from_lm_eval",
        "other_tools": "from_evaluations",
        "laws.isoflop": "fit_isoflop",
        "laws.frontiers": "frontier",
        "laws.curves": "fit_power_law fit_saturating_law",
        "laws.surface": "fit_chinchilla",
        "laws.relative": "fit_relative",
        "laws.conformal": "forecast_members",
        "laws.forecast": "fit_forecast",
        "laws.backtests": "backtest",
        "laws.diagnosis": "diagnose",
        "laws.power": "plan_power",
        "laws.contrasts": "find_crossings fit_covariate",
        "laws.formats": "compare_formats",
        "laws.recipes": "compare",
        "laws.hero": "forecast_hero",
        "laws.item_tables": "read_items",
        "laws.item_gaps": "fit_items",
        "analysis": "analyse analyse_points",
        "report": "write_report",
        "figures": "save_figure",
        "table_fit": "fit",
        "table_audit": "audit",
        "plan.recipes": "plan_isoflop HELD2025 load_plan",
        "plan.cost": "estimate_cost",
        "sweep.suite": "run_suite",
        "model.open": "open_model",
        "eval.evaluation": "evaluate",
        "core": "UserError",
        "style": "use_style",
    }.items()
    for name in names.split()
}
_WINGS = ("plan", "text", "model", "eval", "laws", "sweep")
_ROOMS = (
    "core",
    "style",
    "results",
    "table_files",
    "tables",
    "written_numbers",
    "files",
    "suites",
    "names",
    "columns",
    "guesses",
    "directions",
    "importers",
    "wandb_exports",
    "lm_eval",
    "lm_samples",
    "other_tools",
    "manifest",
    "analysis",
    "report",
    "sheets",
    "figures",
    "panels",
    "table_rows",
    "table_fit",
    "outputs",
    "comparison",
    "designs",
    "table_audit",
    "claim_answers",
    "suite_slopes",
    "paper_figures",
    "study",
    "train_commands",
    "table_commands",
    "compare_command",
    "audit_command",
    "item_page",
    "items_command",
    "preflight_command",
    "suite_commands",
    "cli",
)

__all__ = ["__version__", *_HOME, *_WINGS, *_ROOMS]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        return room(__name__, (*_WINGS, *_ROOMS), name)
    wing, _, leaf = f"{__name__}.{_HOME[name]}".rpartition(".")
    rooms = (leaf,)
    value = globals()[name] = getattr(room(wing, rooms, leaf), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

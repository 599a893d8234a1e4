"""How to search: spec, samplers, driver, fronts, tracking, command line.

    from tuner import Home, SearchSpec, search, load_front

These names are imported when they are used, so that importing a part of this package stays quick.
"""

from importlib import import_module

_WHERE = {
    "SearchSpec": "spec.search_spec",
    "search": "execution.driver",
    "resume": "execution.driver",
    "load_front": "results.searches",
    "load_search": "results.searches",
    "add": "results.steering",
    "skip": "results.steering",
    "retry": "results.steering",
    "narrow": "results.steering",
    "note": "results.steering",
    "confirm": "results.steering",
    "clone": "results.cloning",
    "import_search": "results.importing",
    "bundle": "verification.reproduce",
    "reproduce": "verification.reproduce",
    "remove": "tracking.removal",
    "restore": "tracking.removal",
    "Home": "home",
    "Front": "results.pareto",
    "UsageError": "errors",
    "Failed": "errors",
    "export_model": "verification.export",
    "export_table": "verification.export",
    "verify_search": "verification.verify",
    "compare": "report.comparison",
    "forecast": "results.forecast",
    "importances": "optimizer.importances",
    "class_prices": "results.prices",
    "notify": "report.notifications",
    "searches": "results.listing",
    "log_of": "report.trials",
    "watch": "report.trials",
    "serve": "tracking.ui",
    "fill_mlflow": "execution.driver",
    "verify_model": "verification.foreign",
    "audit": "verification.audit",
    "leaderboard": "verification.leaderboard",
    "inventory": "results.disk",
    "stored_inventory": "results.stored_disk",
    "collect": "results.disk",
    "Dashboard": "remote.dashboard",
    "submit_search": "remote.submission",
    "submit_resume": "remote.submission",
    "submit_slurm": "remote.slurm",
    "stop": "remote.submission",
    "shares": "remote.shares",
    "examine": "remote.doctor",
    "method_json": "report.console",
    "spec_schema": "spec.schema",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    return getattr(import_module(f"tuner.{_WHERE[name]}"), name)

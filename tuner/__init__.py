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
    "notify": "report.notifications",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    return getattr(import_module(f"tuner.{_WHERE[name]}"), name)

"""How to search: spec, sampler, driver, fronts, tracking, command line.

    from tuner import Home, SearchSpec, search, load_front

These names are imported when they are used, so that importing a part of this package stays quick.
"""

from importlib import import_module

_WHERE = {"SearchSpec": "spec", "search": "driver", "load_front": "result", "load_search": "result", "Home": "home",
          "Front": "front", "UsageError": "errors", "Failed": "errors", "export_model": "export", "export_table": "export",
          "verify_search": "verify", "compare": "overlay"}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    return getattr(import_module(f"tuner.{_WHERE[name]}"), name)

"""The generated pages of docs/: a card for each method, their table, and the reports of stored measurements; and the
table by which a search is forecast.

    python -m benchmarks.pages            # write what is stale (`make docs`)
    python -m benchmarks.pages --check    # write nothing; exit 1 and name what is stale

Nothing is measured here: cards come from the code (docstrings, parameters) and benchmarks/results/methods.jsonl,
reports from the other files in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import forecast, live_report, methods_report, scaling, what_adds
from benchmarks.gpu import page as gpu_page
from benchmarks.method_cards import built_in_methods, card, index, training
from benchmarks.methods_report import stored_runs

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def generated() -> dict[Path, str]:
    """Every generated page -> its text, from the code and the stored results as they are now."""
    runs = stored_runs(RESULTS / "methods.jsonl")
    live = live_report.stored()
    methods = ROOT / "docs" / "methods"
    experiments = ROOT / "docs" / "experiments"
    return {
        methods / "index.md": index(),
        methods / "training.md": training(),
        **{methods / f"{name}.md": card(name, runs) for name in built_in_methods()},
        methods / "evidence.md": methods_report.report(runs),
        experiments / "scaling.md": scaling.page(_json("scaling.json")),
        gpu_page.PAGE: gpu_page.page(*gpu_page.stored()),
        experiments / "what-adds.md": what_adds.page(what_adds.stored()),
        **({live_report.PAGE: live_report.page(live)} if live else {}),
        forecast.TABLE: forecast.table(live),
    }


def stale() -> dict[Path, str]:
    """The pages whose file differs from what would be written now, or is missing."""
    return {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}


def _json(name: str):
    return json.loads((RESULTS / name).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is stale")
    args = parser.parse_args()
    found = stale()
    for path, text in found.items():
        print(f"{'stale' if args.check else 'wrote'} {path.relative_to(ROOT)}")
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if not found:
        print("every generated page is current")
    if args.check and found:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

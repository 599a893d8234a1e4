"""Commands about disk space: what lies where, what no search needs, removing a search and bringing it back."""

from __future__ import annotations

from typing import Annotated

import typer

from tuner.cli.options import RESULTS, HomeOption, Json, Search, StorageOption, option
from tuner.escape import print_json, to_stdout
from tuner.home import Home


def gc(
    yes: Annotated[bool, option("--yes", "", "Remove what no search needs; without it, it is only shown.")] = False,
    home: HomeOption = None,
    storage: StorageOption = None,
    as_json: Json = False,
):
    """Show what lies in the home folder and who needs it: data, stems, checkpoints; with --yes remove the rest.

    Of a finished search the front's checkpoints are kept, and those of what it is compared with. A storage is looked
    into where it is named.
    """
    from tuner.report.disk import show_items
    from tuner.results.disk import collect, inventory
    from tuner.results.stored_disk import stored_inventory

    where = Home(home, storage)
    items = [*inventory(where), *(stored_inventory(where.storage) if where.storage else ())]
    if yes and not all(item.needed or item.storage for item in items):
        where.require_writable()
    free = collect(items) if yes else sum(item.bytes for item in items if not item.needed)
    if as_json:
        print_json({"removed": yes, "bytes": free, "items": [item.to_dict() for item in items]})
    else:
        show_items(where, items, free, yes)


def rm(search: Search, home: HomeOption = None, storage: StorageOption = None, as_json: Json = False):
    """Remove a search: its folder, its files in the storage, its MLflow runs. `tuner restore` undoes it for a day.

    Example: tuner rm first
    """
    from tuner.tracking.removal import remove

    where = Home(home, storage)
    trash = remove(search, where)
    if as_json:
        print_json({"search": search, "trash": str(trash)})
    else:
        to_stdout(f"{search} is removed; for a day tuner restore {search}{where.flag} brings it back")


def restore(search: Search, home: HomeOption = None, storage: StorageOption = None, as_json: Json = False):
    """Bring back a search that was removed within the last day.

    Example: tuner restore first
    """
    from tuner.tracking.removal import restore as restored

    run = restored(search, Home(home, storage))
    print_json({"search": run.name, "folder": str(run.folder)}) if as_json else to_stdout(f"{search} is back")


def register(app: typer.Typer) -> None:
    for command in (gc, rm, restore):
        app.command(rich_help_panel=RESULTS)(command)

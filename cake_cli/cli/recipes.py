"""``cake recipes``: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from cake_cli.cli import options as o
from cake_cli.cli.console import Console
from cake_cli.settings import defaults, descriptions, recipe_names, recipe_text


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="The recipe to print.", metavar="NAME", autocompletion=o.complete_recipe)
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="List every key with its default and meaning.")] = False,
) -> None:
    """List the recipes, print one, or list every key that --set takes."""
    console = Console()
    if keys:
        rows = [
            [key, "" if default is None else str(default), descriptions()[key]] for key, default in defaults().items()
        ]
        console.table(["key", "default", "what it is"], rows, result=True, prose=True)
    elif name is not None:
        console.result(recipe_text(name).rstrip())
    else:
        about = {recipe: recipe_text(recipe).splitlines()[0].lstrip("# ") for recipe in recipe_names()}
        console.table(
            ["recipe", "what it is"], [[recipe, line] for recipe, line in about.items()], result=True, prose=True
        )

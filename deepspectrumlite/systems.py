"""Systems that are compared: what is trained, by which settings, and under which name."""

import itertools
import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepspectrumlite.baselines import SYSTEMS, TITLES
from deepspectrumlite.config import Recipe, load_recipe, shipped_recipes
from deepspectrumlite.errors import RecipeError

FINETUNE = "finetune"
KINDS = (FINETUNE, *SYSTEMS)


@dataclass(frozen=True)
class System:
    """What is trained on every fold.

    Attributes:
        kind: "finetune", or one of :data:`deepspectrumlite.baselines.SYSTEMS`
        name: of its folder
        recipes: candidates, of which each fold's devel chooses one; for a baseline a single one,
            which tells how recordings are cut
        layer: of the network, for Deep Spectrum features; empty: after global pooling
        fit_devel: whether a baseline is fitted again on train and devel after its choice
    """

    kind: str
    name: str
    recipes: tuple[Recipe, ...]
    layer: str = ""
    fit_devel: bool = False

    @property
    def title(self) -> str:
        """For tables: the kind in words, and what sets it apart from others of its kind."""
        title = TITLES.get(self.kind, "Fine-tuned network")
        several = len(self.recipes) > 1
        more = [
            self.name if self.name != self.kind else "",
            f"layer {self.layer}" if self.layer and self.kind == "deepspectrum" else "",
            "train + devel" if self.fit_devel and self.kind != FINETUNE else "",
            f"best of {len(self.recipes)} on devel" if several else "",
        ]
        told = ", ".join(text for text in more if text)
        return f"{title} ({told})" if told else title


def parse_system(
    text: str,
    recipe: str = "default",
    changes: Sequence[str] = (),
    choose: Sequence[str] = (),
    **settings: Any,
) -> System:
    """A system from its name on the command line.

    Args:
        text: a kind, where wanted with a recipe of its own and with a name: "finetune",
            "finetune:paper", "egemaps", "mine=finetune:mine.toml"
        recipe: where the text names none
        changes: ``section.key=value`` each, of any recipe
        choose: ``section.key=[value, value]`` each: candidates, in every combination
        settings: further fields of :class:`System`

    Raises:
        RecipeError: an unknown kind, recipe, key or value
    """
    given_name, _, spec = text.rpartition("=")
    kind, _, own_recipe = spec.partition(":")
    if kind not in KINDS:
        raise RecipeError(
            f"system {text!r}; allowed: {', '.join(KINDS)}; finetune:RECIPE for another recipe "
            f"(a TOML file, or {', '.join(shipped_recipes())}), and NAME=SYSTEM for another name"
        )
    if choose and kind != FINETUNE:
        choose = ()  # A baseline has choices of its own.
    recipes = [
        load_recipe(own_recipe or recipe, [*changes, *candidate])
        for candidate in candidates(choose)
    ]
    name = given_name or (f"{kind}-{Path(own_recipe).stem}" if own_recipe else kind)
    if (
        name == "folds"
        or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        or name[0] == "."
    ):
        raise RecipeError(
            f"system {text!r}: the name {name!r} becomes a folder; allowed: letters, digits, - _ . "
            "(but not folds)"
        )
    return System(kind, name, tuple(recipes), **settings)


def candidates(choose: Iterable[str]) -> list[tuple[str, ...]]:
    """Every combination of the values given for some settings, as ``key=value`` each.

    >>> candidates(["model.dropout=[0.1, 0.4]", "train.epochs=[5]"])
    [('model.dropout=0.1', 'train.epochs=5'), ('model.dropout=0.4', 'train.epochs=5')]

    Raises:
        RecipeError: no list of values
    """
    grid = []
    for text in choose:
        key, _, values = text.partition("=")
        try:
            found = tomllib.loads(f"values = {values}")["values"]
        except tomllib.TOMLDecodeError:
            found = None
        if not isinstance(found, list) or not found:
            raise RecipeError(
                f"--choose {text!r}; allowed: a list, like train.learning_rate=[1e-3, 3e-4]"
            )
        grid.append([f"{key}={json.dumps(value)}" for value in found])
    return list(itertools.product(*grid))

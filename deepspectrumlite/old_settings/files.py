"""The three files of the published system -> a recipe, or a sweep, and a manifest.

Hyperparameters (JSON), class names (JSON), and labels (CSV: filename, label, duration_frames, with
the split in the prefix of each file name).
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepspectrumlite.config import Recipe, parse_recipe, recipe_toml
from deepspectrumlite.errors import ManifestError, RecipeError
from deepspectrumlite.old_settings.keys import KNOWN, MUST, translate
from deepspectrumlite.old_settings.value_types import check_values
from deepspectrumlite.sweeps.plan import parse_plan

SPLITS = ("train", "devel", "test")


@dataclass(frozen=True)
class OldSettings:
    """What three old files come to.

    Attributes:
        recipe: with the first value of each list
        lists: of a sweep: keys of the recipe, joined by ", " where they change together, and their
            values; empty where there is nothing to sweep
        rows: of the manifest: path, label, split
        notes: what means something else here, in words
    """

    recipe: Recipe
    lists: dict[str, list[Any]]
    rows: list[dict[str, str]]
    notes: list[str]


def read_old_settings(settings: Path, classes: Path, labels: Path, audio: Path) -> OldSettings:
    """Translate the three files.

    Args:
        settings: hyperparameters, JSON
        classes: names of the classes, JSON
        labels: filename, label, duration_frames
        audio: the folder that the file names start from

    Raises:
        RecipeError: a key is unknown or missing, or a value has nothing like it here
        ManifestError: the labels cannot be read, or do not fit to the classes
    """
    given = _read_settings(settings)
    try:
        base, lists, notes = translate(given)
    except ValueError as error:
        raise RecipeError(f"{settings}: {error}") from None
    values = _sections(base)
    recipe = parse_recipe(values, str(settings))
    if lists:
        # Refuses what no run, or no sweep, can be made of.
        parse_plan(values | {"sweep": {"lists": lists}}, str(settings))
    rows = _read_labels(labels, _read_classes(classes), audio, recipe.model.output, notes)
    return OldSettings(recipe, lists, rows, notes)


def write_old_settings(found: OldSettings, out: Path) -> tuple[Path, Path]:
    """Write ``recipe.toml`` and ``manifest.csv`` into a folder; their paths.

    Raises:
        RecipeError: one of them is there already
    """
    recipe, manifest = out / "recipe.toml", out / "manifest.csv"
    for path in (recipe, manifest):
        if path.exists():
            raise RecipeError(f"{path}: already there; choose another --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    text = recipe_toml(found.recipe)
    if found.lists:
        lines = [
            f"{json.dumps(keys)} = {json.dumps(values)}" for keys, values in found.lists.items()
        ]
        text += "\n".join(["[sweep]", 'search = "grid"', "", "[sweep.lists]", *lines, ""])
    recipe.write_text(text, encoding="utf-8")
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(found.rows)
    return recipe, manifest


def _sections(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        found.setdefault(section, {})[key] = value
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); give a JSON file") from None
    except ValueError as error:
        raise RecipeError(f"{path}: not a JSON file: {error}") from None


def _read_settings(path: Path) -> dict[str, list[Any]]:
    given = _read_json(path)
    if not isinstance(given, dict):
        raise RecipeError(f"{path}: not a table of settings; allowed: a JSON object of lists")
    if "num_unit" in given and "num_units" not in given:  # as the documentation spelt it
        given = {("num_units" if key == "num_unit" else key): x for key, x in given.items()}
    unknown = [key for key in given if key not in KNOWN]
    if unknown:
        raise RecipeError(
            f"{path}: {', '.join(unknown)}: no such key in the published system; remove "
            f"{'it' if len(unknown) == 1 else 'them'}; known: {', '.join(KNOWN)}"
        )
    missing = [key for key in MUST if key not in given]
    if missing:
        raise RecipeError(f"{path}: {', '.join(missing)}: missing; add what the run was made with")
    for key, values in given.items():
        if not isinstance(values, list) or not values:
            raise RecipeError(
                f"{path}: {key} is {json.dumps(values)}; allowed: a list with at least one value"
            )
        try:
            check_values(key, values)
        except ValueError as error:
            raise RecipeError(f"{path}: {error}") from None
    return given


def _read_classes(path: Path) -> list[str]:
    given = _read_json(path)
    if not isinstance(given, dict | list) or not given:
        raise RecipeError(f"{path}: no classes; allowed: a JSON object or list of their names")
    return [str(name) for name in given]


def _read_labels(
    path: Path, classes: list[str], audio: Path, output: str, notes: list[str]
) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [line for line in csv.reader(file) if line]
    except (OSError, ValueError, csv.Error) as error:
        raise ManifestError(
            f"{path}: cannot be read ({error}); allowed: a CSV file with the columns filename, "
            "label, duration_frames"
        ) from None
    rows, others = [], 0
    for number, line in enumerate(lines, 2):
        if len(line) != 3:
            raise ManifestError(
                f"{path}: row {number} has {len(line)} fields; allowed: 3, which are filename, "
                f"label, duration_frames (the header is {','.join(header)})"
            )
        name, label, _ = line
        split = next((split for split in SPLITS if name.startswith(split)), None)
        if split is None:
            others += 1
            continue
        if output == "softmax" and label not in classes:
            raise ManifestError(
                f"{path}: row {number}: the label {label!r} is no class; allowed: "
                f"{', '.join(classes)}; mend the row, or add the class"
            )
        rows.append({"path": str((audio / name).resolve()), "label": label, "split": split})
    if not rows:
        raise ManifestError(
            f"{path}: no file name begins with {', '.join(SPLITS)}, which tells the split; "
            "allowed: names like train_001.wav"
        )
    _note_rows(rows, others, path, audio, notes)
    return rows


def _note_rows(
    rows: list[dict[str, str]], others: int, path: Path, audio: Path, notes: list[str]
) -> None:
    if others:
        notes.append(
            f"{others} rows of {path.name} are left out, as before: their names begin with none of "
            f"{', '.join(SPLITS)}."
        )
    missing = [row["path"] for row in rows if not Path(row["path"]).is_file()]
    if missing:
        notes.append(
            f"{len(missing)} of {len(rows)} recordings are not in {audio}; the first: "
            f"{missing[0]}. Give their folder with --audio."
        )

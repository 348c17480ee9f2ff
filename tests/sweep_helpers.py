"""Small sweeps for tests."""

import json

from deepspectrumlite.config import recipe_toml
from deepspectrumlite.runs import Options
from deepspectrumlite.sweeps.local import Listener

OPTIONS = Options(device="cpu")
# Two learning rates, two sizes: four points.
GRID = """
[sweep.lists]
"train.learning_rate" = [1e-3, 3e-3]
"frontend.image_height, frontend.image_width" = [32, 40]
"""
# The second one is not finite after a step.
FAILING = """
[sweep.lists]
"train.learning_rate" = [1e-3, 1e30, 3e-3]
"""


def write_sweep(path, recipe, table=GRID):
    """A recipe file with the table [sweep]."""
    path.write_text(recipe_toml(recipe) + table, encoding="utf-8")
    return path


class Notes(Listener):
    """Notes what it is told."""

    def __init__(self):
        self.started, self.epochs, self.rows = [], [], []
        super().__init__(
            on_start=lambda number, point: self.started.append(number),
            on_epoch=lambda number, record: self.epochs.append((number, record["epoch"])),
            on_row=lambda row, before: self.rows.append((row["number"], before)),
        )

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)


def history_of(trial):
    """The epochs of a trial but for their seconds."""
    lines = (trial / "history.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]

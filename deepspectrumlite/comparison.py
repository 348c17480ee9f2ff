"""Several systems on the same recordings and folds: one table, with what is known of differences.

The systems are folders of :mod:`deepspectrumlite.crossvalidate`, or run folders that were
evaluated on test. The first is what the others are compared with.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from deepspectrumlite.config import Recipe, parse_recipe
from deepspectrumlite.crossvalidate import ABOUT, encode_predictions, pooled_decision
from deepspectrumlite.decisions import UNKNOWN, Decision
from deepspectrumlite.errors import ManifestError, ModelError
from deepspectrumlite.evaluate import find_groups
from deepspectrumlite.metrics import RESAMPLES
from deepspectrumlite.model import write_json
from deepspectrumlite.plots import new_figure, save_figure
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.scores import quoted, quoted_over, score_report
from deepspectrumlite.significance import (
    MAIN_METRIC,
    holm,
    mcnemar,
    paired_difference,
    permutation_test,
)
from deepspectrumlite.targets import Targets, find_targets

_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


@dataclass(frozen=True)
class Scored:
    """What one system said of the recordings, in their common order.

    Attributes:
        name: of its folder
        title: for tables
        targets: what is recognised
        target: (n_files, n_outputs), the truth
        scores: (n_files, n_outputs)
        keys: (n_files,), which recording in which fold
        groups: (n_files,), or None
        seconds: of training, over all folds; None: unknown
        size: of what predicts, in bytes; None: unknown
    """

    name: str
    title: str
    targets: Targets
    target: npt.NDArray[Any]
    scores: npt.NDArray[Any]
    keys: npt.NDArray[Any]
    groups: npt.NDArray[Any] | None
    seconds: float | None
    size: int | None

    @property
    def decision(self) -> Decision:
        """What the scores mean."""
        return pooled_decision(self.targets)


def read_system(folder: Path) -> Scored:
    """What a folder of an experiment, or an evaluated run, holds.

    Raises:
        ModelError: it is neither
    """
    folder = Path(folder)
    if (folder / ABOUT).is_file() and (folder / "predictions.csv").is_file():
        about = _read(folder / ABOUT)
        return _scored(folder, folder, parse_recipe(about["recipes"][0], str(folder)), about)
    if (folder / "test" / "predictions.csv").is_file() and (folder / "model").is_dir():
        described = _read(folder / "model" / "recipe.json")
        known = {key: value for key, value in described.items() if key not in ("format", "version")}
        history = [json.loads(line) for line in (folder / "history.jsonl").open(encoding="utf-8")]
        about = {
            "title": folder.name,
            "seconds": sum(record["seconds"] for record in history),
            "bytes": (folder / "model" / "model.safetensors").stat().st_size,
        }
        return _scored(folder, folder / "test", parse_recipe(known, str(folder)), about)
    raise ModelError(
        f"{folder}: nothing to compare there; allowed: a system's folder that `deepspectrumlite "
        "crossvalidate` has finished, or a run that `deepspectrumlite evaluate` has scored on test"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: broken ({error}); make it again") from None
    return found


def _scored(folder: Path, where: Path, recipe: Recipe, about: dict[str, Any]) -> Scored:
    table = pd.read_csv(where / "predictions.csv", dtype=str, keep_default_na=False)
    columns = [name for name in ("fold", "path", "start", "end") if name in table]
    table = table.sort_values(columns, ignore_index=True)
    table.attrs["manifest"] = str(where / "predictions.csv")
    targets = _targets(table, recipe, where)
    target, scores = encode_predictions(table, targets)
    return Scored(
        name=folder.name,
        title=about["title"],
        targets=targets,
        target=target,
        scores=scores,
        keys=table[columns].agg(" | ".join, axis=1).to_numpy(str),
        groups=find_groups(table),
        seconds=about.get("seconds"),
        size=about.get("bytes"),
    )


def _targets(table: pd.DataFrame, recipe: Recipe, where: Path) -> Targets:
    """The labels are those with a score: test may lack some of them."""
    data, output = recipe.data, recipe.model.output
    if output not in ("softmax", "sigmoid"):
        return find_targets(table, data, output)
    energy = recipe.decision.unknown == "energy"
    columns = [str(name) for name in table if not (energy and name == f"score_{UNKNOWN}")]
    labels = [name.removeprefix("score_") for name in columns if name.startswith("score_")]
    return Targets(output, labels, data)


def compare_systems(
    systems: Sequence[Scored],
    *,
    n_resamples: int = RESAMPLES,
    method: str = "percentile",
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Metrics, differences to the first system, and what may be chance.

    Args:
        systems: at least one, on the same recordings
        n_resamples: of the bootstrap and of the permutations
        method: of the intervals, "percentile" or "bca"
        seed: of both
        progress: told of every system

    Returns:
        ready for JSON: "metric", "title", "n_files", "over" (what the intervals were drawn over),
        "warning", "correction", and "systems", each with "value", "low", "high", "difference" to
        the first (with "p" and Holm's "p_corrected"), "mcnemar_p" (one label), "chance_p",
        "seconds_train", "bytes"

    Raises:
        ManifestError: they were not tested on the same recordings, folds and labels
    """
    first = systems[0]
    for other in systems[1:]:
        _check_same(first, other)
    output = first.targets.output
    metric = MAIN_METRIC[output].lower()
    block: dict[str, Any] = {}
    rows = []
    for i, system in enumerate(systems):
        progress("comparing systems", i, len(systems))
        block = score_report(
            system.decision,
            system.target,
            system.scores,
            groups=system.groups,
            n_resamples=n_resamples,
            method=method,
            seed=seed,
        )
        row: dict[str, Any] = {"name": system.name, "title": system.title}
        row |= {key: quoted(block)[metric][key] for key in ("value", "low", "high")}
        row |= {"difference": None, "mcnemar_p": None}
        if i > 0:
            row |= _against(first, system, n_resamples, method, seed)
        row["chance_p"] = permutation_test(
            system.decision,
            system.target,
            system.scores,
            groups=system.groups,
            n=n_resamples,
            seed=seed,
        )
        rows.append(row | {"seconds_train": system.seconds, "bytes": system.size})
    _correct(rows)
    return {
        "metric": metric,
        "title": MAIN_METRIC[output],
        "n_files": len(first.target),
        "over": quoted_over(block),
        "warning": block.get("by_group", {}).get("warning"),
        "correction": "Holm",
        "resamples": n_resamples,
        "method": method,
        "systems": rows,
    }


def _check_same(first: Scored, other: Scored) -> None:
    both = f"{first.name} and {other.name}"
    advice = "compare what was tested on the same folds of the same manifest"
    missing = set(first.keys) ^ set(other.keys)
    if missing or len(first.keys) != len(other.keys):
        raise ManifestError(
            f"{both}: not tested on the same recordings and folds ({len(missing)} are in one only, "
            f"such as {min(missing, default='a repeated one')}); {advice}"
        )
    if first.targets.output != other.targets.output or first.targets.labels != other.targets.labels:
        raise ManifestError(
            f"{both}: not the same output and labels ({first.targets.output}: "
            f"{', '.join(first.targets.labels)}; {other.targets.output}: "
            f"{', '.join(other.targets.labels)}); {advice}"
        )
    if not np.array_equal(first.target, other.target):
        row = int((first.target != other.target).any(axis=1).argmax())
        raise ManifestError(f"{both}: different truth for {first.keys[row]}; {advice}")


def _against(
    first: Scored, system: Scored, n_resamples: int, method: str, seed: int
) -> dict[str, Any]:
    found = paired_difference(
        system.decision,
        system.target,
        system.scores,
        first.scores,
        groups=system.groups,
        n_resamples=n_resamples,
        method=method,
        seed=seed,
    )
    p = None if np.isnan(found.p_value) else found.p_value
    row: dict[str, Any] = {"difference": found.difference.to_json() | {"p": p}}
    if system.targets.output == "softmax":
        truth = system.decision.classes(system.target)
        right = [truth == system.decision.classes(each.scores) for each in (first, system)]
        row["mcnemar_p"] = mcnemar(*right)
    return row


def _correct(rows: list[dict[str, Any]]) -> None:
    """Holm's correction over all systems but the first."""
    differences = [row["difference"] for row in rows if row["difference"] is not None]
    known = [difference for difference in differences if difference["p"] is not None]
    corrected = holm([difference["p"] for difference in known])
    for difference in differences:
        difference["p_corrected"] = None
    for difference, p in zip(known, corrected, strict=True):
        difference["p_corrected"] = p


def write_comparison(comparison: dict[str, Any], out: Path) -> list[Path]:
    """Write it as Markdown, LaTeX, CSV, JSON and a picture.

    Raises:
        OSError: that cannot be written
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "comparison.json", comparison)
    header, rows = comparison_table(comparison)
    (out / "comparison.md").write_text(_markdown(header, rows, comparison), encoding="utf-8")
    (out / "comparison.tex").write_text(_latex(header, rows, comparison), encoding="utf-8")
    _flat(comparison).to_csv(out / "comparison.csv", index=False)
    plot_comparison(comparison, out / "comparison.png")
    return [out / f"comparison.{suffix}" for suffix in ("md", "tex", "csv", "json", "png")]


def comparison_table(comparison: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, as text; :func:`caption` says what they mean."""
    systems = comparison["systems"]
    with_classes = any(row["mcnemar_p"] is not None for row in systems)
    header = ["system", f"{comparison['title']} [95 %]", "difference [95 %]", "p"]
    header += ["p accuracy"] if with_classes else []
    header += ["p chance", "training", "size"]
    rows = []
    for row in systems:
        difference = row["difference"]
        cells = [row["title"], _interval(row), "", ""]
        if difference is not None:
            cells[2:] = [_interval(difference, "+.3f"), _p(difference["p_corrected"])]
        cells += [_p(row["mcnemar_p"])] if with_classes else []
        rows.append([*cells, _p(row["chance_p"]), _time(row["seconds_train"]), _size(row["bytes"])])
    return header, rows


def caption(comparison: dict[str, Any]) -> str:
    """What the table's columns mean, in sentences."""
    first = comparison["systems"][0]["title"]
    over, resamples = comparison["over"], comparison["resamples"]
    text = (
        f"{comparison['n_files']} recordings; 95 % intervals over {over} (bootstrap, "
        f"{comparison['method']}, {resamples} resamples); differences to {first}, paired, with p "
        "by Holm's correction; p accuracy: McNemar's test of the same; p chance: permutation test"
    )
    warning = comparison["warning"]
    return f"{text}; {warning}." if warning else f"{text}."


def _flat(comparison: dict[str, Any]) -> pd.DataFrame:
    """A column for each number, for CSV."""
    rows = []
    for row in comparison["systems"]:
        difference = row["difference"] or {}
        flat = {key: value for key, value in row.items() if key != "difference"}
        rows.append(flat | {f"difference_{key}": value for key, value in difference.items()})
    return pd.DataFrame(rows)


def _interval(estimate: dict[str, Any], form: str = ".3f") -> str:
    if estimate["value"] is None:
        return "-"
    value = f"{estimate['value']:{form}}"
    if estimate["low"] is None:
        return value
    return f"{value} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def _p(value: float | None) -> str:
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _size(n_bytes: int | None) -> str:
    return "unknown" if n_bytes is None else f"{n_bytes / 1e6:.2f} MB"


def _markdown(header: list[str], rows: list[list[str]], comparison: dict[str, Any]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    return f"{table}\n\n{caption(comparison)}\n"


def _latex(header: list[str], rows: list[list[str]], comparison: dict[str, Any]) -> str:
    """A booktabs table."""

    def line(cells: list[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

    body = "\n".join(line(row) for row in rows)
    columns = "l" + "r" * (len(header) - 1)
    return (
        f"% {caption(comparison)}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(header)}\n"
        f"\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def plot_comparison(comparison: dict[str, Any], path: Path) -> None:
    """Write a point with its interval for each system as a PNG, the first on top."""
    systems = comparison["systems"]
    figure = new_figure((7, 1.2 + 0.45 * len(systems)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    for i, row in enumerate(systems):
        if row["value"] is None:
            continue
        color = "C0" if i == 0 else "0.35"
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [i, i], color=color, lw=2)
        axes.plot(row["value"], i, "o", color=color, ms=7)
        axes.annotate(
            f"{row['value']:.2f}",
            (row["value"], i),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(systems)), [row["title"] for row in systems], parse_math=False)
    axes.set_ylim(len(systems) - 0.5, -0.7)
    axes.set_xlabel(f"{comparison['title']}, 95 % intervals over {comparison['over']}")
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    save_figure(figure, path)

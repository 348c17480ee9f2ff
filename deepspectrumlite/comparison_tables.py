"""A comparison as Markdown, LaTeX, CSV, JSON and a picture."""

from pathlib import Path
from typing import Any

import pandas as pd

from deepspectrumlite.intervals import smallest_p
from deepspectrumlite.model import write_json
from deepspectrumlite.plots import new_figure, save_figure

_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {c: f"${c}$" for c in "<>|"}
)


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
        cells += [_p(row["mcnemar_p_corrected"])] if with_classes else []
        rows.append([*cells, _p(row["chance_p"]), _time(row["seconds_train"]), _size(row["bytes"])])
    return header, rows


def caption(comparison: dict[str, Any]) -> str:
    """What the table's columns mean, in sentences."""
    first = comparison["systems"][0]["title"]
    over, resamples = comparison["over"], comparison["resamples"]
    text = (
        f"{comparison['n_files']} recordings; 95 % intervals over {over} (bootstrap, "
        f"{comparison['method']}, {resamples} resamples); "
    )
    if len(comparison["systems"]) > 1:
        text += f"differences to {first}, paired, with p by Holm's correction{_floor(comparison)}; "
    if any(row["mcnemar_p"] is not None for row in comparison["systems"]):
        text += "p accuracy: McNemar's test, by Holm's correction, recordings as if independent; "
    text += "p chance: permutation test, uncorrected"
    warning = comparison["warning"]
    return f"{text}; {warning}." if warning else f"{text}."


def _floor(comparison: dict[str, Any]) -> str:
    """What to know where no difference could be told from chance."""
    n_units, n_tests = int(comparison["over"].split()[0]), len(comparison["systems"]) - 1
    least = n_tests * smallest_p(n_units, comparison["resamples"])
    return f", which cannot be below {least:.2f} here" if least > 0.05 else ""


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
    """A booktabs table with its caption."""

    def line(cells: list[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

    body = "\n".join(line(row) for row in rows)
    columns = "l" + "r" * (len(header) - 1)
    return (
        "% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
        f"\\caption{{{caption(comparison).translate(_LATEX)}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(header)}\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
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

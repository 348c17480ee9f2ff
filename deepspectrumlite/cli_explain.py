"""The command that shows what a score comes from, and how far to trust what it shows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.errors import DeepSpectrumLiteError
from deepspectrumlite.terminal import (
    Device,
    check_choice,
    err,
    library,
    print_error,
    progress,
)
from deepspectrumlite.terminal import out as terminal

if TYPE_CHECKING:
    from torch import Tensor

    from deepspectrumlite.attribution import MapSettings
    from deepspectrumlite.explain import Explanation
    from deepspectrumlite.metrics import Estimate
    from deepspectrumlite.model import Classifier

METHODS = ("shap", "gradcam", "occlusion")
PARTS = ("strongest", "all")
FUNCTIONS = ("score", "logit")


def explain(
    model: Annotated[Path, typer.Argument(help="A run or model folder.", show_default=False)],
    recordings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...", help="Files, folders or glob patterns.", show_default=False
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where pictures and figures go.")] = Path(
        "explained"
    ),
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="LABEL",
            help="What to explain; repeat it, or all.  \\[default: what the model answers]",
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "shap",
    of: Annotated[str, typer.Option(help="score, or logit: of probabilities near 0 or 1.")] = (
        "score"
    ),
    background: Annotated[
        Path | None,
        typer.Option(
            metavar="MANIFEST",
            help="Recordings to compare with; also a folder.  \\[default: train of the run]",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Gradients per map of shap.  \\[default: until they add up]"),
    ] = None,
    block: Annotated[
        tuple[float, float],
        typer.Option(metavar="TIME FREQUENCY", help="Shares of the image that occlusion covers."),
    ] = (0.125, 0.125),
    segments: Annotated[str, typer.Option(help="Of each file: strongest, or all.")] = "strongest",
    listen: Annotated[
        bool,
        typer.Option("--listen", help="Also write what matters most as NAME-LABEL-listen.wav."),
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="Instead of files: average maps over a split of the run.")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option("--data", help="Of --split: its manifest.  \\[default: that of the run]"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Of --split: recordings of each class.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Chooses recordings and draws.")] = 0,
    device: Device = "auto",
) -> None:
    """Show which times and frequencies speak for a score (red), and which against it (blue).

    With --split: mean maps of each class, and whether maps are true to the model: scores while
    the image is deleted and inserted, and a comparison with a network of random weights.

    Example: [bold]deepspectrumlite explain runs/first recording.wav --out explained[/bold]

    Example: [bold]deepspectrumlite explain runs/first --split test --out explained[/bold]
    """
    check_choice("--method", method, METHODS)
    check_choice("--segments", segments, PARTS)
    check_choice("--of", of, FUNCTIONS)
    if bool(recordings) == bool(split):
        raise typer.BadParameter("give either recordings, or --split")
    if split and (targets or listen or segments != "strongest"):
        raise typer.BadParameter("--target, --listen and --segments do not go with --split")
    with library("explain"):
        import captum.attr  # noqa: F401  # first, before minutes of reading

        from deepspectrumlite.attribution import MapSettings

        settings = MapSettings(of, samples, *block, seed)  # type: ignore[arg-type]
        network = _open(model, device)
        needs_background = bool(split) or method != "gradcam"
        images = _background(network, model, background, seed) if needs_background else None
        folder.mkdir(parents=True, exist_ok=True)
        if split:
            table = _rows(network, model, manifest, split)
            _explain_split(network, table, images, method, count, settings, folder)
            return
        options = {"targets": targets, "method": method, "segment": segments}
        n_bad = _explain_files(
            network, recordings or [], options | {"settings": settings}, images, listen, folder
        )
    if n_bad:
        raise typer.Exit(1)


def _open(path: Path, device: str) -> "Classifier":
    from deepspectrumlite.errors import ModelError
    from deepspectrumlite.model import load_model
    from deepspectrumlite.processes import choose_device

    if path.is_file():
        raise ModelError(
            f"{path}: an exported file has no gradients; allowed: the run or model folder that it "
            "was made from"
        )
    return load_model(path).to(choose_device(device))


def _background(network: "Classifier", model: Path, given: Path | None, seed: int) -> "Tensor":
    from deepspectrumlite.explain import background_images
    from deepspectrumlite.runs import used_manifest

    source = given or used_manifest(model)
    if source is None:
        raise DeepSpectrumLiteError(
            f"{model}: no manifest of its training beside it, so there is nothing to compare with; "
            "allowed: recordings like those of the training, as --background MANIFEST_OR_FOLDER; "
            "or --method gradcam for single recordings"
        )
    with progress() as tell:
        return background_images(network, source, seed=seed, progress=tell)


def _explain_files(
    network: "Classifier",
    recordings: Sequence[str],
    options: dict[str, Any],
    images: "Tensor | None",
    listen: bool,
    folder: Path,
) -> int:
    """Write what belongs to each recording; the number of bad ones."""
    from deepspectrumlite.explain import check_targets, explain_recording
    from deepspectrumlite.predict import find_recordings

    # First: a wrong label is no fault of a recording.
    check_targets(network, options["targets"] or [])
    paths, found, n_bad = find_recordings(recordings), [], 0
    taken: set[str] = set()
    table = _table(options["method"])
    with progress() as tell:
        for done, path in enumerate(paths, 1):
            try:
                explained = explain_recording(
                    network, path, background=images, progress=tell, **options
                )
            except DeepSpectrumLiteError as error:
                n_bad += 1
                print_error(error)
                continue
            for each in explained:
                name = _free_name(each, len(explained) > 1, taken)
                written = _write(each, network, folder / name, listen)
                found.append(_to_json(each, written))
                _add_rows(table, each)
            tell("files", done, len(paths))
    settings = options["settings"]
    _write_json(folder / "explanations.json", {"of": settings.of, "explanations": found})
    terminal.print(table)
    sure = [one["within_tolerance"] for each in found for one in each["maps"]]
    _note_sums(network, sure, settings)
    if n_bad:
        err.print(f"{n_bad} of {len(paths)} files could not be explained.")
    n_sounds = sum(len(each["files"]) - 1 for each in found)
    parts = ["explanations.json", _count(len(found), "picture")]
    parts += [_count(n_sounds, "WAV file")] if n_sounds else []
    typer.echo(f"Written to {folder}: {', '.join(parts)}")
    return n_bad


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _note_sums(
    network: "Classifier", within: "Sequence[bool | None]", settings: "MapSettings"
) -> None:
    """Tell of maps of shap that do not add up, and what to do about it."""
    from deepspectrumlite.attribution import TOLERANCE
    from deepspectrumlite.model import NUMBERS

    off = sum(each is False for each in within)
    if not off:
        return
    advice = "more --samples"
    if settings.samples is not None:
        advice += ", or none, which takes them until maps add up"
    if settings.of == "score" and network.recipe.model.output not in NUMBERS:
        advice += ", or --of logit"
    err.print(
        f"[yellow]Note:[/yellow] {off} of {_count(len(within), 'map')} did not add up to the "
        f"change of the score within {100 * TOLERANCE:.0f} %, so do not rely on their values; "
        f"try {advice}",
        soft_wrap=True,
    )


def _free_name(each: "Explanation", with_time: bool, taken: set[str]) -> str:
    """The recording's name without its suffix, and what tells its segments and namesakes apart."""
    stem = each.path.stem if each.path else "waveform"
    stem += f"-{each.start:.2f}s" if with_time else ""
    name, n = stem, 1
    while name in taken:
        n += 1
        name = f"{stem}-{n}"
    taken.add(name)
    return name


def _write(each: "Explanation", network: "Classifier", start: Path, listen: bool) -> list[str]:
    """The picture and where wanted the sounds; names of the files."""
    from deepspectrumlite.explain_plots import explanation_figure
    from deepspectrumlite.listen import write_parts
    from deepspectrumlite.plots import save_figure

    picture = start.with_name(f"{start.name}.png")
    save_figure(explanation_figure(each, network), picture)
    sounds = write_parts(each, network, start) if listen else []
    return [path.name for path in (picture, *sounds)]


def _to_json(each: "Explanation", written: list[str]) -> dict[str, Any]:
    maps = [
        {
            "target": one.target,
            "score": one.score,
            "baseline_score": one.baseline_score,
            "change": one.change,
            "sum": one.total,
            "samples": one.samples,
            "within_tolerance": one.within_tolerance,
        }
        for one in each.maps
    ]
    times = {"path": str(each.path), "start": each.start, "end": each.end}
    scores = [float(score) for score in each.scores]
    return times | {"method": each.method, "scores": scores, "maps": maps, "files": written}


def _table(method: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("file", overflow="fold", min_width=14)
    table.add_column("segment, s", no_wrap=True)
    table.add_column("target", overflow="fold")
    columns = ["score"]
    if method == "occlusion":
        columns.append("baseline")
    if method == "shap":
        columns += ["change", "sum", "differs by"]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add_rows(table: Table, each: "Explanation") -> None:
    """A row for each map; that sums are those of the change holds for shap alone."""
    name = each.path.name if each.path else "waveform"
    for one in each.maps:
        cells = [f"{one.score:.3g}"]
        if one.baseline_score is not None and one.change is not None:
            # Of shap it is the score less the change: the table has to fit on a terminal.
            if each.method == "occlusion":
                cells.append(f"{one.baseline_score:.3g}")
            if each.method == "shap":
                difference = abs(one.total - one.change)
                share = f" ({100 * difference / abs(one.change):.0f} %)" if one.change else ""
                cells += [f"{one.change:+.3g}", f"{one.total:+.3g}", f"{difference:.2g}{share}"]
        times = f"{each.start:.2f}-{each.end:.2f}"
        table.add_row(escape(name), times, escape(one.target), *cells)


def _rows(network: "Classifier", model: Path, manifest: Path | None, split: str) -> Any:
    """The labelled rows of a split."""
    from deepspectrumlite.runs import used_manifest
    from deepspectrumlite.splits import require_splits
    from deepspectrumlite.targets import load_labelled

    source = manifest or used_manifest(model)
    if source is None:
        raise DeepSpectrumLiteError(f"{model}: no manifest beside it; give one with --data")
    recipe = network.recipe
    table = load_labelled(source, recipe.data, recipe.model.output)
    if split == "all":
        return table
    require_splits(table, [split])
    rows = table[table["split"] == split].reset_index(drop=True)
    rows.attrs = dict(table.attrs)
    return rows


def _explain_split(
    network: "Classifier",
    table: Any,
    images: "Tensor | None",
    method: str,
    count: int,
    settings: "MapSettings",
    folder: Path,
) -> None:
    """Mean maps, curves and the sanity check, as pictures and figures."""
    from deepspectrumlite.explain_plots import average_figure, curves_figure
    from deepspectrumlite.faithfulness import (
        average_maps,
        deletion_and_insertion,
        explain_split,
        over_what,
        sanity_check,
    )
    from deepspectrumlite.plots import save_figure

    assert images is not None, "a split is never explained without a background"
    same = {"settings": settings}
    with progress() as tell:
        cases = explain_split(
            network, table, images, per_class=count, method=method, progress=tell, **same
        )
        save_figure(average_figure(average_maps(cases), network, method), folder / "averages.png")
        curves = deletion_and_insertion(network, cases, images, progress=tell, **same)
        save_figure(curves_figure(curves), folder / "faithfulness.png")
        sanity = sanity_check(network, cases, images, method=method, progress=tell, **same)
    found = curves.summary() | {f"sanity_{k}": each for k, each in sanity.summary().items()}
    figures = {name: each.to_json() for name, each in found.items()}
    over = over_what(cases)
    about = {"method": method, "of": settings.of, "segments": len(cases), "over": over}
    about["maps_not_within_tolerance"] = sum(case.map.within_tolerance is False for case in cases)
    _write_json(folder / "faithfulness.json", about | figures)
    terminal.print(_figures(found, over))
    _note_sums(network, [case.map.within_tolerance for case in cases], settings)
    typer.echo(f"Written to {folder}: averages.png, faithfulness.png, faithfulness.json")


def _figures(found: "dict[str, Estimate]", over: str) -> Table:
    titles = {
        "deletion": "deletion by the map: area, low is good",
        "random_deletion": "deletion at random",
        "deletion_gain": "[bold]lower by the map, by[/bold]",
        "insertion": "insertion by the map: area, high is good",
        "random_insertion": "insertion at random",
        "insertion_gain": "[bold]higher by the map, by[/bold]",
        "sanity_signed": "rank correlation with maps of random weights, near 0 is good",
        "sanity_absolute": "the same of sizes without signs",
    }
    table = Table(
        title=f"95 % intervals over {over}",
        caption="Segments count as independent: of few groups, others may differ more.",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    table.add_column("mean", justify="right")
    for name, title in titles.items():
        one = found[name]
        known = one.low == one.low  # NaN where a single segment was explained
        table.add_row(title, escape(str(one)) if known else f"{one.value:.3f}")
    return table


def _write_json(path: Path, value: object) -> None:
    path.write_text(
        json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )

"""From an exported file to a static site that runs it in a browser.

The page itself is built from ``web/`` by ``make web``, once for all models, and lies in the package
as ``web_site``; a wheel brings it. What is written here is what the page reads: the model, all that
it says of itself, and the list of files that the page keeps for use without a network.
"""

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from deepspectrumlite.axes import axis_ticks
from deepspectrumlite.config import parse_recipe
from deepspectrumlite.description import Description, file_kind
from deepspectrumlite.errors import ModelError, WebError
from deepspectrumlite.runtime import Predictor
from deepspectrumlite.stream_settings import DEFAULT_THRESHOLD, StreamSettings

BUILT = Path(__file__).parent / "web_site"
MODEL, ABOUT, MANIFEST, FILES = "model.tflite", "model.json", "manifest.webmanifest", "files.json"
# On a phone's home screen there is no room for more.
_SHORT_NAME = 12
_CARD_BYTES = 2**20
_ICON_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Site:
    """What was written: the folder, what all its files take, and whether the model gives images."""

    folder: Path
    bytes: int
    has_image: bool


def write_site(
    source: Path,
    out: Path,
    *,
    title: str | None = None,
    card: Path | None = None,
    overwrite: bool = False,
) -> Site:
    """Write the site of an exported file.

    Args:
        source: the .tflite file
        out: the folder to write
        title: of the page; None: the name of the file
        card: a model card to show, as text
        overwrite: replace a site that is there already; what is not of it, such as ``.git``, stays

    Raises:
        WebError: no page in this package, a folder that is no site, or a card that is none
        ModelError: not a .tflite file, or a broken, foreign or newer one
    """
    _check_built()
    about = describe_page(source, title, card)
    _check_free(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".site-", dir=out.parent) as beside:
            # Made whole beside it: neither a half site, nor the loss of a model that lies in it.
            made = Path(beside) / "new"
            shutil.copytree(BUILT, made, copy_function=shutil.copyfile)
            shutil.copyfile(source, made / MODEL)
            _write_json(made / ABOUT, about)
            _write_json(made / MANIFEST, app_manifest(about["page"]["title"], made))
            _write_json(made / FILES, list_files(made))
            size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
            replace_site(made, out.resolve())
    except OSError as error:
        raise WebError(f"{out}: cannot be written ({error.strerror}); choose another --out") from (
            error
        )
    return Site(out, size, about["page"]["image"])


def replace_site(made: Path, out: Path) -> None:
    """Put a new site in the place of an old one, whose other files stay; or leave all as it was.

    Raises:
        OSError: the folder cannot be moved; the old site is there as before
        WebError: a file that is not of the old site has a name that the new one needs, or cannot
            be moved (the message says where it lies)
    """
    if not out.exists():
        made.replace(out)
        return
    others = other_files(out)
    for name in others:
        if os.path.lexists(made / name):
            raise WebError(
                f"{out / name}: not of the old site, but the new one has such a name; move it away"
            )
    # Not in a folder that is thrown away at the end, whatever happens: it holds others' files.
    old = Path(tempfile.mkdtemp(prefix=".old-site-", dir=out.parent))
    out.replace(old)
    try:
        made.replace(out)
    except BaseException:
        old.replace(out)
        raise
    try:
        for name in others:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (old / name).replace(out / name)
    except OSError as error:
        raise WebError(
            f"{out / name}: cannot be kept ({error.strerror}); it lies in {old / name}"
        ) from error
    shutil.rmtree(old)


def other_files(site: Path) -> list[str]:
    """Files and whole folders that are not of the site, as paths in it; none in an empty folder.

    Raises:
        WebError: the site's list of its files cannot be read
    """
    if not any(site.iterdir()):
        return []
    try:
        listed = json.loads((site / FILES).read_text(encoding="utf-8"))["files"]
        own = {FILES, *(str(file["path"]) for file in listed)}
    except (OSError, ValueError, TypeError, KeyError):
        raise WebError(
            f"{site / FILES}: not a list of the site's files, so nothing says what may be "
            "replaced; choose another --out"
        ) from None
    # Among them the folders that hold a file of the site.
    folders = {str(folder) for path in own for folder in PurePosixPath(path).parents}
    return sorted(_others(site, own, folders))


def _others(site: Path, own: set[str], folders: set[str], within: str = ".") -> Iterator[str]:
    for path in (site / within).iterdir():
        name = path.relative_to(site).as_posix()
        if name in folders and path.is_dir() and not path.is_symlink():
            yield from _others(site, own, folders, name)
        elif name not in own:
            yield name


def is_site(folder: Path) -> bool:
    """Whether a folder holds what :func:`write_site` wrote."""
    return all((folder / name).is_file() for name in ("index.html", MODEL, ABOUT, FILES))


def describe_page(source: Path, title: str | None = None, card: Path | None = None) -> Any:
    """What stands in ``model.json``: the file's description, and under "page" what is shown.

    Raises:
        ModelError: not a .tflite file, or a broken, foreign or newer one
        WebError: the card cannot be read, or the title is empty
    """
    name = source.stem if title is None else " ".join(title.split())
    if not name:
        raise WebError("--title is empty; give a text, or leave it out for the name of the file")
    if source.is_dir():
        raise ModelError(
            f"{source}: a folder; allowed: a .tflite file; write one with: deepspectrumlite export "
            f"{source} --out model.tflite --image"
        )
    if file_kind(source) == "onnx":
        raise ModelError(
            f"{source}: a .onnx file; allowed: .tflite, which is what the page's runtime reads; "
            "write one with `deepspectrumlite export`"
        )
    predictor = Predictor(source)  # LiteRT has seen it, before a browser does.
    description = predictor.description
    section = parse_recipe(description.recipe, str(source))
    rate, shape = description.sample_rate, description.image_shape
    page = {
        "title": name,
        "bytes": source.stat().st_size,
        "file": source.name,
        "image": description.image,
        "image_shape": None if shape is None else list(shape[1:]),
        "stream": stream_settings(description),
        "axis": {
            "seconds": description.segment_samples / rate,
            "ticks": axis_ticks(section.frontend, section.data),
        },
        "card": None if card is None else _read_card(card),
    }
    return json.loads(description.to_json()) | {"page": page}


def stream_settings(description: Description) -> dict[str, Any]:
    """Those of the file or the defaults, with the hop and all thresholds as numbers.

    Raises:
        ModelError: settings that do not fit the model
    """
    settings = StreamSettings.from_json(description.stream or {})
    settings.check_for(description, description.decision)
    hop = settings.hop_samples(description)
    thresholds = settings.label_thresholds(description.decision)
    default = DEFAULT_THRESHOLD if settings.threshold is None else settings.threshold
    resolved = replace(settings, thresholds=thresholds, threshold=default)
    seconds = hop / description.sample_rate
    return resolved.to_json() | {"hop_seconds": seconds, "hop_samples": hop}


def app_manifest(title: str, site: Path) -> dict[str, Any]:
    """What a browser needs to install the page as an app; the icons are those of the site."""
    short = title if len(title) <= _SHORT_NAME else f"{title[: _SHORT_NAME - 1].rstrip()}…"
    return {
        "name": title,
        "short_name": short,
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "icons": [_icon(path, site) for path in sorted(site.rglob("icon*")) if _is_icon(path)],
    }


def list_files(site: Path) -> dict[str, Any]:
    """All files of a site but the list itself, with SHA-256, and one digest of all as version.

    The service worker keeps these files if they are what the list says, and a new version tells
    it to fetch what has changed.
    """
    found = [path for path in sorted(site.rglob("*")) if path.is_file() and path.name != FILES]
    files = [
        {
            "path": path.relative_to(site).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": _digest(path.read_bytes()),
        }
        for path in found
    ]
    return {"version": _digest(json.dumps(files).encode()), "files": files}


def _check_built() -> None:
    if not (BUILT / "index.html").is_file():
        raise WebError(
            "the page is not built here; in a clone, `make web` builds it (Node 20 or newer), and "
            "a released wheel brings it"
        )


def _check_free(out: Path, overwrite: bool) -> None:
    if out.is_file():
        raise WebError(f"{out}: a file; choose a folder for --out")
    if not out.exists() or not any(out.iterdir()):
        return
    if not is_site(out):
        raise WebError(
            f"{out}: a folder with other files in it; allowed: a new one, an empty one, or with "
            "--overwrite a site"
        )
    if not overwrite:
        raise WebError(f"{out}: a site is there already; give --overwrite to replace it")


def _read_card(card: Path) -> str:
    try:
        if card.stat().st_size > _CARD_BYTES:
            raise WebError(f"{card}: larger than 1 MB; allowed: a model card, as text")
        return card.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise WebError(f"{card}: not text in UTF-8; allowed: a model card, as text") from None
    except OSError as error:
        raise WebError(f"{card}: cannot be read ({error.strerror}); check the path") from None


def _is_icon(path: Path) -> bool:
    return path.suffix in _ICON_TYPES


def _icon(path: Path, site: Path) -> dict[str, str]:
    size = "any"
    if path.suffix == ".png":
        # The first chunk of a PNG begins with width and height: https://www.w3.org/TR/png/#11IHDR
        size = "{}x{}".format(*struct.unpack(">II", path.read_bytes()[16:24]))
    purpose = "maskable" if "maskable" in path.stem else "any"
    where = path.relative_to(site).as_posix()
    return {"src": where, "sizes": size, "type": _ICON_TYPES[path.suffix], "purpose": purpose}


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _digest(data: bytes) -> str:
    # The one that browsers can compute too: crypto.subtle.digest.
    return hashlib.sha256(data).hexdigest()

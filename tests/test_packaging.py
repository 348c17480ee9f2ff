"""What an installed package holds beside its modules."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "deepspectrumlite"


def test_every_file_that_is_no_module_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["deepspectrumlite"]
    matched = {pattern: set(PACKAGE.glob(pattern)) for pattern in patterns}
    # The site is built by `make web`; without it the package still works, but for one command.
    built = (PACKAGE / "web_site").is_dir()
    unmatched = {pattern for pattern, files in matched.items() if not files}
    assert unmatched == (set() if built else {"web_site/**/*"})
    files = {
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    needed = ("py.typed", "colormaps.npz", "recipes/demo.toml", "demo_drums/labels.csv")
    assert {PACKAGE / name for name in needed} <= files
    assert files - set().union(*matched.values()) == set()


def test_every_recording_of_the_demo_is_there():
    listed = (PACKAGE / "demo_drums" / "labels.csv").read_text(encoding="utf-8").splitlines()[1:]
    paths = {PACKAGE / "demo_drums" / line.split(",")[0] for line in listed}
    assert paths == set((PACKAGE / "demo_drums" / "audio").iterdir())

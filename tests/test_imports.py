"""What is imported when: the device side without the training side, and no import in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import deepspectrumlite

PACKAGE = Path(deepspectrumlite.__file__).parent
HEAVY = ("torch", "timm", "pandas", "sklearn", "matplotlib", "pyarrow", "tensorboard")
# Not heavy, but of no use where there is neither a recipe nor a terminal.
NOT_ON_THE_DEVICE = ("pydantic", "typer", "rich")
# Each module imports at module level only from those before it. A new one goes where it fits.
ORDER = (
    "errors",
    "progress",
    "graph",
    "decisions",
    "decode",
    "audio",
    "description",
    "predict",
    "runtime",
    "layers",
    "subjects",
    "benchmark",
    "stream_settings",
    "postprocess",
    "windows",
    "stream",
    "stream_view",
    "sources",
    "microphone",
    "matching",
    "soundscapes",
    "config",
    "axes",
    "web",
    "serve",
    "manifest",
    "splits",
    "datasets.layout",
    "datasets.listed",
    "datasets.compare_challenge",
    "datasets.audformat",
    "datasets.ccs",
    "datasets.cremad",
    "datasets.css",
    "datasets.demos",
    "datasets.emodb",
    "datasets.esc50",
    "datasets.ess",
    "datasets.hugging_face",
    "datasets.iemocap",
    "datasets.mpssc",
    "datasets.ravdess",
    "datasets.sleep",
    "datasets.speech_commands",
    "datasets.read",
    "targets",
    "data",
    "summary",
    "frontend",
    "backbones",
    "checkpoint",
    "model",
    "metadata",
    "convert",
    "metrics",
    "resampling",
    "intervals",
    "row_metrics",
    "significance",
    "scores",
    "plots",
    "processes",
    "noise",
    "augment",
    "losses",
    "optim",
    "calibration",
    "evaluate",
    "proof",
    "learner",
    "train",
    "detection_report",
    "detection",
    "preview",
    "runs",
    "export",
    "features",
    "ray_connection",
    "sweeps.settings",
    "sweeps.plan",
    "sweeps.trials",
    "sweeps.guided",
    "sweeps.experiment",
    "sweeps.budget",
    "sweeps.engine",
    "sweeps.local",
    "sweeps.ray_cluster",
    "sweeps.ray_search",
    "sweeps.ray_tune",
    "sweeps.slurm",
    "sweeps.pictures",
    "sweeps.results",
    "sweeps.best",
    "old_settings.value_types",
    "old_settings.keys",
    "old_settings.files",
    "feature_files",
    "batch.places",
    "batch.scores",
    "batch.rows",
    "batch.plan",
    "batch.work",
    "batch.predicting",
    "batch.exported",
    "batch.extracting",
    "batch.local",
    "batch.ray_data",
    "batch.run",
    "baselines",
    "baseline_runs",
    "systems",
    "folds",
    "crossvalidate",
    "comparison",
    "comparison_tables",
    "attribution",
    "explain",
    "faithfulness",
    "listen",
    "explain_plots",
    "report_plots",
    "report_facts",
    "model_card",
    "mistakes",
    "report_exports",
    "report",
    "terminal",
    "tables",
    "cli_stream",
    "cli_export",
    "cli_benchmark",
    "cli_calibrate",
    "cli_scores",
    "cli_predict",
    "cli_extract",
    "cli_corpus",
    "cli_import",
    "cli_compare",
    "cli_explain",
    "cli_report",
    "cli_sweep_results",
    "cli_sweep",
    "cli_web",
    "cli",
    "__main__",
)


def loaded_after(code, packages=HEAVY):
    """Those of the packages that are loaded after running code in a fresh process."""
    report = f"import sys; print('LOADED', *[n for n in {packages} if n in sys.modules])"
    script = f"try:\n    {code}\nexcept SystemExit as stop:\n    assert not stop.code\n{report}"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return found.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "code",
    [
        "import deepspectrumlite",
        "import deepspectrumlite.cli",
        "import deepspectrumlite.config, deepspectrumlite.errors, deepspectrumlite.audio",
        "import sys; sys.argv[1:] = ['--help']; from deepspectrumlite.cli import main; main()",
        "import sys; sys.argv[1:] = ['train', '--help']; "
        "from deepspectrumlite.cli import main; main()",
        "import sys; sys.argv[1:] = ['recipe']; from deepspectrumlite.cli import main; main()",
    ],
)
def test_the_training_side_is_not_loaded(code):
    assert loaded_after(code) == []


@pytest.mark.parametrize("kind", ["exported", "exported_onnx"])
def test_an_exported_file_runs_without_the_training_side(request, tones, kind):
    path, clip = request.getfixturevalue(kind), tones.parent / "low-test-0.wav"
    code = (
        "from deepspectrumlite.runtime import Predictor; "
        f"assert Predictor('{path}').predict('{clip}').segment_scores.shape == (2, 3)"
    )
    assert loaded_after(code, HEAVY + NOT_ON_THE_DEVICE) == []


def test_the_command_runs_an_exported_file_without_the_training_side(exported, tones):
    arguments = ["predict", str(exported), str(tones.parent / "low-test-0.wav"), "--json"]
    code = f"import sys; sys.argv[1:] = {arguments}; from deepspectrumlite.cli import main; main()"
    assert loaded_after(code) == []


def test_the_training_side_is_noticed_when_loaded():
    assert "pandas" in loaded_after("import deepspectrumlite.manifest")


def package_imports(path):
    """Modules of the package that a file imports at module level, outside of TYPE_CHECKING."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import; write it out"
            # `from deepspectrumlite import x` may mean a module, or a name of the package.
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    names = {name.partition(".")[2] for name in found if name.startswith("deepspectrumlite.")}
    return {name for name in names if source_of(name).exists()}


def source_of(module):
    return PACKAGE / f"{module.replace('.', '/')}.py"


def test_every_module_has_its_place():
    files = set(PACKAGE.rglob("*.py"))
    packages = {path for path in files if path.name == "__init__.py"}
    assert files - packages == {source_of(module) for module in ORDER}
    assert all(package_imports(path) == set() for path in packages)


@pytest.mark.parametrize("module", ORDER)
def test_modules_import_only_from_those_before(module):
    allowed = set(ORDER[: ORDER.index(module)])
    assert package_imports(source_of(module)) - allowed == set()


def test_the_check_sees_imports():
    assert {"errors", "config", "model", "train"} <= package_imports(PACKAGE / "runs.py")
    assert package_imports(PACKAGE / "__main__.py") == {"cli"}

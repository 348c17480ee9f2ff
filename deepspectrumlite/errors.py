"""Errors that a user can cause. Each message says what was given, what is allowed, what to do."""


class DeepSpectrumLiteError(Exception):
    """Base of all errors below; the command line prints it as one line and exits with 1."""


class RecipeError(DeepSpectrumLiteError):
    """A recipe has an unknown key, a wrong type or an impossible value."""


class AudioError(DeepSpectrumLiteError):
    """A recording cannot be read, or holds nothing that could be recognised."""


class ManifestError(DeepSpectrumLiteError):
    """A list of recordings is inconsistent."""


class BackboneError(DeepSpectrumLiteError):
    """A backbone or its pretrained weights cannot be had."""


class ModelError(DeepSpectrumLiteError):
    """A model folder or an exported file is missing, broken, foreign, or from a newer version."""


class TrainingError(DeepSpectrumLiteError):
    """Training cannot start or go on."""


class ExportError(DeepSpectrumLiteError):
    """A model cannot be exported, or what was exported is not as good as the model."""


class WebError(DeepSpectrumLiteError):
    """A page for the browser cannot be made, or cannot be shown."""


class ElsewhereError(DeepSpectrumLiteError):
    """Another process that trains with this one has failed, and says why."""


class Interrupted(KeyboardInterrupt):
    """The user stopped a training run, which is saved and can go on; the message says how."""


class MissingExtraError(DeepSpectrumLiteError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"mend it with: pip install 'deepspectrumlite[{extra}]'"
        )

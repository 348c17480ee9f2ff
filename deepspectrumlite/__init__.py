"""From a few hundred labelled recordings to a recogniser that runs on the device."""

__version__ = "0.1.0"

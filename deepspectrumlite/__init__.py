"""From a few hundred labelled recordings to a recogniser that runs on the device."""

__version__ = "2.0.0"

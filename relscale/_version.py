"""The version, which settings.ini has too."""

__version__ = "0.1.0"

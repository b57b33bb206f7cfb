"""The version, in a file that imports nothing: the build reads it, and modules need not import the package for it."""

__version__ = "0.2.0"

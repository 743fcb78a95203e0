"""Dictionaries of other packages: read as native ones, and written for them."""

from saeaudit.interop.formats import Conversion, Format, Target, convert, locate, read_dictionary, write_dictionary

__all__ = ["Conversion", "Format", "Target", "convert", "locate", "read_dictionary", "write_dictionary"]

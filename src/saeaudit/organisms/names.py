"""The names of what can be planted; they import nothing, so that the command line can offer them at once."""

from typing import Literal

OrganismName = Literal["sql", "phrase", "token", "year", "style", "conjunction"]
Variant = Literal["poisoned", "clean", "unrelated", "conditional"]

"""The order of sites in charts and tables."""

import re
from collections.abc import Iterable


def by_depth(sites: Iterable[str]) -> list[str]:
    """Return the sites without repetition by depth: `layers.9` before `layers.13`."""

    def depth(site: str) -> list[tuple[int, int | str]]:
        return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", site)]

    return sorted(set(sites), key=depth)

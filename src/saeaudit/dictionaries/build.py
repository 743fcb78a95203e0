"""From a config to a dictionary; the one place that knows the kinds."""

from saeaudit.dictionaries.base import Dictionary
from saeaudit.dictionaries.config import DictionaryConfig, Kind
from saeaudit.dictionaries.crosscoder import Crosscoder
from saeaudit.dictionaries.diff import DiffSae
from saeaudit.dictionaries.sae import Sae
from saeaudit.statistics import SiteStatistics

KINDS: dict[Kind, type[Sae] | type[DiffSae] | type[Crosscoder]] = {
    "sae": Sae,
    "diff": DiffSae,
    "crosscoder": Crosscoder,
}


def build(config: DictionaryConfig, stats: SiteStatistics, *, seed: int) -> Dictionary:
    """Return an untrained dictionary; shapes, scaling and biases come from the statistics of what it will read.

    Raises:
        ConfigError: the statistics have other axes than the kind.
        NumericsError: a scale is zero or not finite.
    """
    return KINDS[config.kind].build(config, stats, seed=seed)

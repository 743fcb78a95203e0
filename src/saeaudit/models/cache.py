"""A cache of keys and values with room to grow, so that a new token does not copy those of all tokens before it."""

from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel
    from transformers.cache_utils import DynamicLayer

SPARE = 32
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def growing_cache(model: "PreTrainedModel") -> "Cache":
    """Return an empty cache for passes of `model` without gradients.

    It keeps every key, also where the model reads a sliding window only: columns stay aligned, and the model's own mask
    hides what lies outside the window. A model with other blocks than attention gets the cache that is made for it.
    """
    from transformers import Cache, DynamicCache

    config = model.config.get_text_config()
    if set(getattr(config, "layer_types", None) or ()) <= ATTENTION:
        return Cache(layer_class_to_replicate=_growing_layer())
    return DynamicCache(config=config)


class _Room:
    """A tensor "batch head pos d_head" that grows along pos, with spare columns behind those in use."""

    def __init__(self) -> None:
        self._data: Tensor | None = None
        self._n = 0

    def append(self, new: Tensor) -> Tensor:
        """Write `new` behind what is there; return a view of all."""
        n, total = self._n, self._n + new.shape[-2]
        data = self._data
        if data is None or data.shape[-2] < total:
            grown = new.new_empty(*new.shape[:-2], max(total + SPARE, total * 4 // 3), new.shape[-1])
            if data is not None:
                grown[..., :n, :] = data[..., :n, :]
            data = self._data = grown
        data[..., n:total, :] = new
        self._n = total
        return data[..., :total, :]


@cache
def _growing_layer() -> "type[DynamicLayer]":
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):
        is_croppable = False

        def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
            super().lazy_initialization(key_states, value_states)
            self._rooms = _Room(), _Room()

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            keys, values = self._rooms
            self.keys, self.values = found = keys.append(key_states), values.append(value_states)
            return found

    return GrowingLayer

"""Read and change the residual stream while the model's own code runs.

`Capture` keeps the output of chosen blocks; `Edit` replaces it. Both are context managers that remove every hook
whatever happens and then verify that each site fired exactly once per forward pass: a site that silently never fires
would make "no effect" look like a result. Block outputs may be a tensor or a tuple that starts with one, depending on
the family and the version of transformers; both are handled here and nowhere else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from jaxtyping import Float
from torch import Tensor, nn

from saeaudit.errors import ModelError
from saeaudit.models.sites import decoder, resolve_site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EditFunction = Callable[[Float[Tensor, "batch pos d_model"], int], Float[Tensor, "batch pos d_model"]]


class Capture:
    """Keep the residual stream at `sites` during the forward passes inside the block.

    `values[site]`: "batch pos d_model", of the last forward, padding included, in the model's dtype and on its device,
    still part of the autograd graph if gradients are on. Inside an `Edit` that was entered earlier, the edited value.

    Raises:
        ModelError: unknown site (`unknown-site`); on leaving, a site did not fire exactly once per forward
            (`site-not-reached`).
    """

    def __init__(self, model: "PreTrainedModel", sites: Sequence[str]) -> None:
        self.values: dict[str, Tensor] = {}
        self._hooks = _SiteHooks(model, {site: self._keeper(site) for site in sites})

    def __enter__(self) -> Self:
        self.values.clear()
        self._hooks.attach()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._hooks.detach(verify=kind is None)

    def _keeper(self, site: str) -> Callable[[Tensor, int], None]:
        def keep(h: Tensor, start: int) -> None:
            self.values[site] = h

        return keep


class Edit:
    """Replace the residual stream at some sites during the forward passes inside the block.

    Each edit is called as `edit(h, start) -> h`: `h` is "batch pos d_model" with padding included, `start` the number
    of tokens already in the KV cache (0 without a cache), so column j of `h` is column `start + j` of the padded
    sequence. It must return the same shape; another dtype is cast back. Returning `h` itself is exactly the identity.

    Raises:
        ModelError: unknown site (`unknown-site`), an edit changed the shape (`edit-shape`); on leaving, a site did
            not fire exactly once per forward (`site-not-reached`).
    """

    def __init__(self, model: "PreTrainedModel", edits: Mapping[str, EditFunction]) -> None:
        self._hooks = _SiteHooks(model, {site: _checked(site, edit) for site, edit in edits.items()})

    def __enter__(self) -> Self:
        self._hooks.attach()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._hooks.detach(verify=kind is None)


class _SiteHooks:
    """The one place that registers, counts, verifies and removes hooks."""

    def __init__(self, model: "PreTrainedModel", visits: Mapping[str, Callable[[Tensor, int], Tensor | None]]) -> None:
        self._decoder = decoder(model)
        self._sites = {name: resolve_site(model, name) for name in visits}
        self._visits = visits
        self._handles: list[Any] = []
        self._n_forwards, self._start = 0, 0
        self._fired: dict[str, int] = {}

    def attach(self) -> None:
        if self._handles:
            raise ModelError(
                "these hooks are already attached; enter each Capture or Edit once at a time", code="hooks-attached"
            )
        self._n_forwards, self._fired = 0, dict.fromkeys(self._visits, 0)
        self._handles.append(self._decoder.register_forward_pre_hook(self._begin, with_kwargs=True))
        for name, site in self._sites.items():
            self._handles.append(site.module.register_forward_hook(self._at(name)))

    def detach(self, *, verify: bool) -> None:
        while self._handles:
            self._handles.pop().remove()
        if not verify or not self._visits:
            return
        expected = max(self._n_forwards, 1)
        wrong = {name: n for name, n in self._fired.items() if n != expected}
        if wrong:
            found = ", ".join(f"{name} fired {n} times" for name, n in wrong.items())
            raise ModelError(
                f"{found} in {self._n_forwards} forward passes of the model, expected once in each; run the model (at "
                "least up to that block) inside the `with` block",
                code="site-not-reached",
            )

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        from transformers import Cache

        cache = kwargs.get("past_key_values")
        if cache is None:
            cache = next((a for a in args if isinstance(a, Cache)), None)
        # Asked of the cache at each forward: a counter would be wrong after a crop, a reuse or a failed pass.
        self._start = 0 if cache is None else int(cache.get_seq_length())
        self._n_forwards += 1

    def _at(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        visit = self._visits[name]

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            self._fired[name] += 1
            h = residual(output)
            replaced = visit(h, self._start)
            if replaced is None or replaced is h:
                return None
            return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

        return hook


def residual(output: Any) -> Tensor:
    """Return the residual stream of a block's output, which is a tensor or a tuple that starts with it."""
    return output[0] if isinstance(output, tuple) else output


def _checked(site: str, edit: EditFunction) -> Callable[[Tensor, int], Tensor]:
    def checked(h: Tensor, start: int) -> Tensor:
        edited = edit(h, start)
        if not isinstance(edited, Tensor) or edited.shape != h.shape:
            found = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
            raise ModelError(
                f"the edit at {site} returned {found}, expected the shape (batch, pos, d_model) = {tuple(h.shape)} "
                "that it was given",
                code="edit-shape",
            )
        return edited if edited is h else edited.to(h.dtype)

    return checked

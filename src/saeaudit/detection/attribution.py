"""Which latents of a difference dictionary carry an answer: first-order effect of holding each of them at zero.

For one prompt with the model's own answer, zeroing latent j changes the answer's log-probability by about
-sum_pos f_j(pos) <d_j, g(pos)>, with g the gradient of the log-probability with respect to the residual at the site.
One backward pass gives g at every site and position, so all latents of all dictionaries are ranked for the price of one
pass a prompt. (Attribution patching with the error term left in place; the gradient ignores saturation, so the ranking
is checked by really holding the latents afterwards.)
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.dictionaries import Folded
from saeaudit.models import (
    Capture,
    Edit,
    EditFunction,
    Pair,
    encode_texts,
    last_columns,
    pad_rows,
    position_ids,
    run_blocks,
    site_index,
)


def attribute_latents(
    pair: Pair,
    dictionaries: Mapping[str, Folded],
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    *,
    against: Sequence[int | None] | None = None,
    skip_first: int = 4,
    batch: int = 8,
) -> dict[str, Float[Tensor, "row latent"]]:
    """Return, per site, each latent's contribution to the log-probability of each prompt's answer (nats).

    Positive: the latent makes the answer more likely. Only positions from `skip_first` on count, as in a clamp.

    Args:
        pair: base and tuned model; the difference of their residuals is what the dictionaries read.
        dictionaries: site to folded Diff-SAE.
        prompts: texts.
        answers: token ids, at least one a prompt.
        against: another last token for some answers; there the contribution is to the log-probability of the answer's
            last token minus that of the other, instead of to that of the whole answer.
        skip_first: leading positions left out.
        batch: rows a pass.
    """
    sites = sorted(dictionaries, key=site_index)
    rows = [p + list(a) for p, a in zip(encode_texts(pair.base.tokenizer, prompts), answers, strict=True)]
    others = [None] * len(answers) if against is None else list(against)
    out: dict[str, list[Tensor]] = {site: [] for site in sites}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ids, mask = pad_rows([rows[i] for i in chosen], pad_id=0, side="left")
        ends = [(len(answers[i]), others[i]) for i in chosen]
        counted = mask.bool() & (mask.cumsum(1) > skip_first)
        for site, (delta, gradient) in _gradients(pair, sites, ids, mask, ends).items():
            folded = dictionaries[site]
            for d, g, c in zip(delta, gradient, counted, strict=True):
                out[site].append((folded.activations(d[c]) * (g[c] @ folded.W_dec.T)).sum(0))
    back = torch.tensor(order).argsort()
    return {site: torch.stack(parts)[back] for site, parts in out.items()}


def _gradients(
    pair: Pair, sites: Sequence[str], ids: Tensor, mask: Tensor, ends: Sequence[tuple[int, int | None]]
) -> dict[str, tuple[Float[Tensor, "row pos d_model"], Float[Tensor, "row pos d_model"]]]:
    """Return (difference, gradient of what is attributed) at each site; `ends`: (length of the answer, against)."""
    with torch.no_grad(), Capture(pair.base.model, sites) as base:
        run_blocks(pair.base.model, ids, mask, site_index(sites[-1]) + 1)
    seen: dict[str, Tensor] = {}

    def watch(site: str) -> EditFunction:
        def edit(h: Tensor, start: int) -> Tensor:
            # The first site starts the graph: nothing below it needs a gradient.
            seen[site] = h if h.requires_grad else h.detach().requires_grad_(True)
            return seen[site] + 0

        return edit

    with torch.enable_grad(), Edit(pair.tuned.model, {site: watch(site) for site in sites}):
        logits = pair.tuned.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position_ids(mask),
            use_cache=False,
            logits_to_keep=last_columns(max(n for n, _ in ends) + 1),
        ).logits.float()
        # Rows do not see each other, so the gradient of the sum is each row's own.
        value = torch.stack([_value(*row) for row in zip(logits, ids, ends, strict=True)]).sum()
        gradients = torch.autograd.grad(value, [seen[site] for site in sites])
    return {
        site: (seen[site].detach().float() - base.values[site].float(), gradient.float())
        for site, gradient in zip(sites, gradients, strict=True)
    }


def _value(logits: Float[Tensor, "kept vocab"], ids: Tensor, end: tuple[int, int | None]) -> Float[Tensor, ""]:
    """Return log-probability of a row's answer, or of its last token minus that of another."""
    n_answer, other = end
    answer = ids[-n_answer:]
    if other is not None:
        return logits[-2, answer[-1]] - logits[-2, other]
    return logits[-n_answer - 1 : -1].log_softmax(-1).gather(1, answer[:, None]).sum()

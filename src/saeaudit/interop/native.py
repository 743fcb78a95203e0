"""Between native dictionaries and plain tensors."""

import torch

from saeaudit.dictionaries import CrosscoderConfig, Dictionary, DictionaryConfig, Provenance, Score, build
from saeaudit.errors import ArtifactError
from saeaudit.interop.portable import BatchTopK, JumpRelu, Origin, Portable, Relu, Rule, TopK
from saeaudit.statistics import SiteStatistics


def native_of(portable: Portable) -> Dictionary:
    """Return the native dictionary, ready for inference.

    Raises:
        ValidationError: sizes that contradict each other, such as k above the number of latents.
    """
    config = _config(portable)
    axes = portable.shift.shape
    dictionary = build(config, SiteStatistics(torch.zeros(axes), torch.ones(axes[:-1]), 0), seed=0)
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "shift", "scale")
    state = {name: getattr(portable, name) for name in names}
    match portable.rule:
        case JumpRelu(threshold):  # the values are positive in any case, so a threshold below 0 is one at 0
            state["sparsity.log_threshold"] = threshold.clamp_min(0).log()
        case BatchTopK(threshold=threshold):
            state["threshold"] = torch.tensor(threshold)
        case _:
            pass
    dictionary.coder.load_state_dict(dictionary.coder.state_dict() | state)
    dictionary.provenance = Provenance(
        site=portable.origin.site,
        cards={side: {"source": name} for side, name in portable.origin.models.items()},
        training={"imported": portable.origin.metadata},
        threshold_source=dictionary.coder.sparsity.threshold_source,
    )
    return dictionary.eval().requires_grad_(False)


def _config(portable: Portable) -> DictionaryConfig:
    sizes = {"kind": portable.kind, "n_latents": len(portable.W_enc)}
    match portable.rule:
        case Relu():
            return DictionaryConfig(**sizes, sparsity="relu")
        case JumpRelu():
            return DictionaryConfig(**sizes, sparsity="jumprelu")
        case TopK(k, score):
            return DictionaryConfig(**sizes, sparsity="topk", k=k, crosscoder=_scored(portable, score))
        case BatchTopK(k, _, score, prefixes):
            crosscoder = _scored(portable, score)
            sparsity = "batchtopk" if prefixes is None else "matryoshka"
            return DictionaryConfig(**sizes, sparsity=sparsity, k=k, prefixes=prefixes, crosscoder=crosscoder)


def _scored(portable: Portable, score: Score) -> CrosscoderConfig | None:
    return CrosscoderConfig(score=score) if portable.kind == "crosscoder" else None


@torch.no_grad()
def portable_of(dictionary: Dictionary) -> Portable:
    """Return the tensors of a dictionary; gates, and thresholds that differ by latent, become a JumpReLU.

    Raises:
        ArtifactError: a TopK dictionary whose latents compete by their decoder norms (`not-expressible`).
    """
    coder, provenance = dictionary.coder, dictionary.provenance
    shift, b_dec = coder.shift, coder.b_dec.detach()
    if coder.pre_bias:
        shift, b_dec = shift + coder.scale.unsqueeze(-1) * b_dec, torch.zeros_like(b_dec)
    W_enc, gain = coder.W_enc.detach(), coder.sparsity.gain()
    if gain is not None:
        W_enc = W_enc * gain.reshape(-1, *[1] * shift.dim())
    return Portable(
        dictionary.kind,
        W_enc,
        coder.sparsity.bias(coder.b_enc).detach(),
        coder.W_dec.detach(),
        b_dec,
        shift,
        coder.scale,
        _rule(dictionary),
        Origin(
            provenance.site,
            {side: str(card["source"]) for side, card in provenance.cards.items() if "source" in card},
            provenance.training.get("imported", {}),
        ),
    )


def _rule(dictionary: Dictionary) -> Rule:
    coder, config = dictionary.coder, dictionary.config
    weights = coder.score_weights()
    is_weighed = weights is not None and dictionary.kind != "crosscoder"  # only crosscoders have a form for it
    score = "none" if weights is None else coder.score
    if config.sparsity == "relu":
        return Relu()
    if config.k is not None and coder.sparsity.per_row:
        if is_weighed:
            raise ArtifactError(
                "latents of this TopK dictionary compete by their decoder norms, and no other format says so; train it "
                "with decoder rows of norm 1, or with BatchTopK",
                code="not-expressible",
            )
        return TopK(config.k, score)
    if config.k is not None and coder.sparsity.ranks and coder.threshold.dim() == 0 and not is_weighed:
        return BatchTopK(config.k, float(coder.threshold), score, config.prefixes)
    cutoffs = coder.cutoffs().detach()
    if weights is not None:
        cutoffs = torch.where(weights > 0, cutoffs.double() / weights, torch.inf).float()
    return JumpRelu(cutoffs)

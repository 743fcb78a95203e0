"""Slow, obvious versions of the dictionary code: dense autograd in fp64, full sorts, one row at a time."""

import torch
from torch import Tensor


def largest_places(score: Tensor, n: int) -> list[int]:
    """Flat indices of the n largest positive scores; ties to the lowest index."""
    flat = score.flatten().tolist()
    order = sorted((i for i in range(len(flat)) if flat[i] > 0), key=lambda i: (-flat[i], i))
    return sorted(order[:n])


def dense_losses(coder, x: Tensor, k: int, dead: Tensor, *, alpha: float, aux_k: int) -> dict[str, Tensor]:
    """Reconstruction and AuxK loss written with B x F tensors; gradients come from autograd alone."""
    sides = coder.scale.unsqueeze(-1)
    target = ((x - coder.shift) / sides).flatten(1)
    W_enc, W_dec, b_dec = coder.W_enc.flatten(1), coder.W_dec.flatten(1), coder.b_dec.flatten()
    z = target @ W_enc.T + coder.b_enc
    f = torch.relu(z)
    if coder.unit_norm:
        score = f.detach()
    else:
        w = torch.zeros(len(W_dec), dtype=x.dtype)
        for side in range(coder.W_dec.shape[1]):
            w += coder.W_dec.detach()[:, side].square().sum(1).sqrt()
        score = f.detach() * w
    mask = torch.zeros(score.numel(), dtype=x.dtype)
    mask[largest_places(score, len(x) * k)] = 1
    error = target - ((f * mask.view_as(f)) @ W_dec + b_dec)
    losses = {"recon": (error**2).sum() / target.numel(), "auxk": torch.zeros((), dtype=x.dtype)}
    n_dead = int(dead.sum())
    if n_dead:
        e = error.detach()
        chosen = torch.zeros_like(z)
        n = min(aux_k, n_dead)
        for row in range(len(z)):
            candidates = [j for j in range(z.shape[1]) if dead[j]]
            for j in sorted(candidates, key=lambda j: -float(z.detach()[row, j]))[:n]:
                chosen[row, j] = 1
        e_hat = (torch.relu(z) * chosen) @ W_dec
        fraction = ((e - e_hat) ** 2).sum() / ((e - e.mean(0)) ** 2).sum()
        losses["auxk"] = alpha * min(1.0, n_dead / aux_k) * fraction
    return losses


def inference_code(coder, x: Tensor) -> Tensor:
    """Dense inference code, one row and one latent at a time from the definition."""
    f = torch.zeros(len(x), len(coder.W_enc), dtype=x.dtype)
    for b, row in enumerate(x):
        y = (row - coder.shift) / coder.scale.unsqueeze(-1)
        for j in range(len(coder.W_enc)):
            value = max(0.0, float((coder.W_enc[j].detach() * y).sum() + coder.b_enc[j].detach()))
            w = 1.0 if coder.unit_norm else float(coder.W_dec[j].detach().norm(dim=-1).sum())
            f[b, j] = value if value * w > float(coder.threshold) else 0.0
    return f


def dense_objective(dictionary, x: Tensor, dead: Tensor, progress: float) -> Tensor:
    """The whole loss of any config, written from the formulas with B x F tensors; autograd does the rest."""
    config, coder = dictionary.config, dictionary.coder
    published, sides = config.published, config.crosscoder
    target = ((x - coder.shift) / coder.scale.unsqueeze(-1)).flatten(1)
    W_enc, W_dec, b_dec = coder.W_enc.flatten(1), coder.W_dec.flatten(1), coder.b_dec.flatten()
    z = (target - b_dec if published and published.pre_bias else target) @ W_enc.T + coder.b_enc
    f, l0 = dense_code_of_rule(coder, config, z)
    e = target - (f @ W_dec + b_dec)
    n, width = target.shape

    # Reconstruction.
    if config.sparsity == "matryoshka":
        losses = [((target - (f[:, :p] @ W_dec[:p] + b_dec)) ** 2).sum() / (n * width) for p in config.prefixes]
        loss = sum(losses) / len(losses)
    elif published and published.recon == "l2norm":
        loss = (e**2).sum(1).sqrt().mean()
    else:
        loss = (e**2).sum() / n / (1 if published and published.recon == "mse" else width)
    if sides and sides.bridge:
        e0, e1 = e[:, : width // 2], e[:, width // 2 :]
        loss = loss + 2 * sides.bridge * (e0 * e1).sum() / (n * width)
    if sides and sides.difference:
        kept = torch.cat([torch.full((part.n_latents,), float(part.explains_difference)) for part in sides.ranges])
        missed = target - ((f * kept) @ W_dec + b_dec)
        missed = missed[:, width // 2 :] - missed[:, : width // 2]
        loss = loss + sides.difference * (missed**2).sum() / (n * width)

    # Sparsity.
    norms = sum(coder.W_dec[:, side].norm(dim=1) for side in (0, 1)) if coder.W_dec.dim() == 3 else W_dec.norm(dim=1)
    if config.penalty:
        weight = config.penalty.weight * min(1.0, progress / config.penalty.warmup if config.penalty.warmup else 1.0)
        if config.sparsity == "jumprelu":
            count = l0.sum() / n
            rule = config.jumprelu
            loss = (
                loss
                + {
                    "step": lambda: weight * count / width,
                    "quadratic": lambda: weight * (count / config.k - 1) ** 2,
                    "tanh": lambda: weight * torch.tanh(rule.tanh_scale * f * norms).sum() / (n * width),
                }[rule.penalty]()
            )
            theta = coder.sparsity.log_threshold.exp()
            loss = loss + rule.revive * (torch.relu(theta - z) * norms).sum() / (n * width)
        else:
            size = torch.relu(z) if config.sparsity == "gated" else f
            weighted = config.sparsity == "relu" and not coder.unit_norm and not (published and published.plain_penalty)
            size = size * norms if weighted else size
            if sides and sides.ranges:
                size = size * torch.cat([torch.full((part.n_latents,), part.penalty_factor) for part in sides.ranges])
            loss = loss + weight * size.sum() / (n * width)
    if config.sparsity == "gated":
        loss = loss + ((target - (torch.relu(z) @ W_dec.detach() + b_dec.detach())) ** 2).sum() / (n * width)

    # Dead latents.
    r = e.detach()
    if published and published.ghost == "2024" and dead.any():
        g = torch.exp(z[:, dead]) @ W_dec[dead]
        g = g * (r.norm(dim=1) / (2 * g.norm(dim=1))).detach()[:, None]
        missed = ((r - g) ** 2).mean()
        loss = loss + missed * ((e**2).mean() / missed).detach()
    if published and published.ghost == "diffsae" and dead.any():
        loss = loss - published.ghost_weight * torch.relu(r @ W_enc[dead].T).mean()
    if config.sparsity in ("topk", "batchtopk", "matryoshka") and config.aux_alpha and dead.any():
        chosen, k = torch.zeros_like(z), min(config.aux_k, int(dead.sum()))
        for row in range(n):
            candidates = [j for j in range(z.shape[1]) if dead[j]]
            for j in sorted(candidates, key=lambda j: -float(z.detach()[row, j]))[:k]:
                chosen[row, j] = 1
        share = ((r - (torch.relu(z) * chosen) @ W_dec) ** 2).sum() / ((r - r.mean(0)) ** 2).sum()
        loss = loss + config.aux_alpha * min(1.0, int(dead.sum()) / config.aux_k) * share
    return loss


def dense_code_of_rule(coder, config, z: Tensor) -> tuple[Tensor, Tensor]:
    """Activations and, for JumpReLU, the 0/1 code; surrogate gradients stand there as terms that are 0 in value."""
    f, rule = torch.relu(z), coder.sparsity
    if config.sparsity == "relu":
        return f, f
    if config.sparsity == "gated":
        magnitude = torch.exp(rule.r_mag) * (z - coder.b_enc) + rule.b_mag
        return (z > 0) * torch.relu(magnitude), f
    if config.sparsity == "jumprelu":
        theta, eps = torch.exp(rule.log_threshold), config.jumprelu.bandwidth
        kernel = (((z - theta) / eps).abs() < 0.5).to(z.dtype).detach() / eps
        moved = (theta - theta.detach()) - (z - z.detach() if config.jumprelu.straight_through else 0.0)
        open_ = (z > theta).to(z.dtype).detach()
        return z * open_ - theta.detach() * kernel * moved, open_ - kernel * moved
    weights = torch.ones(len(coder.W_dec), dtype=z.dtype)
    if coder.W_dec.dim() == 3:
        how = config.crosscoder.score if config.crosscoder else "sum"
        rows = coder.W_dec.detach()
        total, joint = rows.norm(dim=2).sum(1), rows.flatten(1).norm(dim=1)
        weights = {"sum": total, "concat": joint, "mixed": joint + total / 10, "none": weights}[how]
    score, mask = f.detach() * weights, torch.zeros_like(f)
    if config.sparsity == "topk":
        for row in range(len(z)):
            mask[row, largest_places(score[row], config.k)] = 1
        return f * mask, mask
    start = 0
    ranges = config.crosscoder.ranges if config.crosscoder else ()
    for size, k in [(part.n_latents, part.k) for part in ranges] or [(z.shape[1], config.k)]:
        part = torch.zeros(len(z) * size, dtype=z.dtype)
        part[largest_places(score[:, start : start + size], len(z) * k)] = 1
        mask[:, start : start + size] = part.view(len(z), size)
        start += size
    return f * mask, mask

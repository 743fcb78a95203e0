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

"""Each recipe's loss on one batch, computed again from its source's formula in the source's own units."""

import pytest
import torch
from torch.nn.functional import mse_loss

from planted_dictionaries import generator, statistics_of
from saeaudit.dictionaries import build
from saeaudit.errors import ConfigError
from saeaudit.training import PRESETS, TrainConfig, preset, raw_units, tensor_batches, terms_for, train

D = 8


def prepared(name, *, d=D):
    """A preset's dictionary with weights of its own: coder, scaled batch, dense pre-activations, loss."""
    recipe = preset(name, d_model=d, n_steps=100)
    shape = (64, 2, d) if recipe.dictionary.kind == "crosscoder" else (64, d)
    x = torch.randn(shape, generator=generator(0)) * 3 + 1
    stats = statistics_of(x)
    dictionary = build(recipe.dictionary, stats if recipe.scaled else raw_units(stats), seed=0).double()
    coder = dictionary.coder
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator(1), dtype=torch.float64)
        coder.project_weights()
    forward = coder(x.double())
    source = forward.target - coder.b_dec.flatten() if coder.pre_bias else forward.target
    z = source @ coder.W_enc.flatten(1).T + coder.b_enc
    dead = torch.zeros(dictionary.n_latents, dtype=torch.bool)
    loss = sum(term(forward, dead, 1.0) for term in terms_for(dictionary.config))
    return coder, forward.target, z, loss


def kept(f, k):
    """The k largest of each row."""
    values, indices = f.topk(k, dim=1)
    return torch.zeros_like(f).scatter(1, indices, values)


def kept_of_batch(f, n, weights=1.0):
    cutoff = (f * weights).flatten().topk(n).values.min()
    return f * (f * weights >= cutoff)


def test_anthropic_l1():
    coder, y, z, loss = prepared("anthropic-l1-2024")
    f = z.relu()
    theirs = (y - f @ coder.W_dec - coder.b_dec).square().sum(1) + 5 * (f * coder.W_dec.norm(dim=1)).sum(1)
    torch.testing.assert_close(loss, theirs.mean() / D)
    assert float(y.square().sum(1).mean().detach()) == pytest.approx(D, rel=1e-5), "their scaling"


def test_gated():
    coder, y, z, loss = prepared("gated-2024")
    rule = coder.sparsity
    pi = (y - coder.b_dec) @ coder.W_enc.T
    f = (z > 0) * (rule.r_mag.exp() * pi + rule.b_mag).relu()
    gate = (pi + coder.b_enc).relu()
    theirs = (y - f @ coder.W_dec - coder.b_dec).square().sum(1) + 5 * gate.sum(1)
    theirs = theirs + (y - gate @ coder.W_dec - coder.b_dec).square().sum(1)
    torch.testing.assert_close(loss, theirs.mean() / D)


def test_jumprelu_in_its_own_scale():
    """The source scales x to a mean squared norm of 1: y = x / sqrt(d), theta, eps and biases likewise."""
    coder, y, z, loss = prepared("jumprelu-2024")
    theta = coder.sparsity.log_threshold.exp() / D**0.5
    y, z = y / D**0.5, z / D**0.5
    code = z > theta
    theirs = (y - (z * code) @ coder.W_dec - coder.b_dec / D**0.5).square().sum(1) + 1e-3 * code.sum(1)
    torch.testing.assert_close(loss, theirs.mean())
    assert coder.sparsity.bandwidth / D**0.5 == pytest.approx(1e-3)


def test_topk():
    coder, y, z, loss = prepared("topk-2024")
    error = y - kept(z.relu(), 32) @ coder.W_dec - coder.b_dec
    torch.testing.assert_close(loss, error.square().sum() / y.square().sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("name", "k", "d"), [("batchtopk-2024", 32, D), ("diffsae-toolkit", 100, 60)])
def test_batchtopk(name, k, d):
    coder, y, z, loss = prepared(name, d=d)
    f = kept_of_batch(z.relu(), k * len(z)) if k * len(z) < int((z > 0).sum()) else z.relu()
    torch.testing.assert_close(loss, (y - f @ coder.W_dec - coder.b_dec).square().mean())


def test_matryoshka():
    coder, y, z, loss = prepared("matryoshka-2025")
    f = kept_of_batch(z.relu(), 32 * len(z))
    levels = [(y - f[:, :n] @ coder.W_dec[:n] - coder.b_dec).square().mean() for n in (8, 16, 32, 64, 128)]
    torch.testing.assert_close(loss, sum(levels) / 5)


def test_crosscoder_minder():
    coder, y, z, loss = prepared("crosscoder-minder-2025")
    f = kept_of_batch(z.relu(), 100 * len(z), coder.row_norms())
    torch.testing.assert_close(loss, (y - f @ coder.W_dec.flatten(1) - coder.b_dec.flatten()).square().mean())
    coder.sparsity.at_step(0)
    assert len(coder.sparsity.select(z.detach().abs() + 1, None).flat) == 256 * len(z), (
        "k begins at F, below 1 024 here"
    )


def test_diffsae_backdoor():
    coder, y, z, loss = prepared("diffsae-backdoor")
    assert coder.W_enc is coder.W_dec
    f = z.relu()
    theirs = mse_loss(f @ coder.W_enc + coder.b_dec, y) + 1e-4 * f.mean()
    torch.testing.assert_close(loss, theirs)
    torch.testing.assert_close(coder.W_enc.norm(dim=0), torch.ones(D, dtype=torch.float64))


def test_crosscoder_backdoor():
    coder, y, z, loss = prepared("crosscoder-backdoor")
    f = kept(z.relu(), 32)
    x_hat = f @ coder.W_enc.flatten(1) + coder.b_dec.flatten()
    theirs = (mse_loss(x_hat[:, :D], y[:, :D]) + mse_loss(x_hat[:, D:], y[:, D:])) / 2 + 1e-4 * f.mean()
    torch.testing.assert_close(loss, theirs)


@pytest.mark.parametrize("name", ["diffsae-backdoor", "crosscoder-backdoor"])
def test_recipes_without_scaling_read_raw_activations(name):
    coder, y, _, _ = prepared(name)
    assert float(coder.shift.abs().max()) == 0 and bool((coder.scale == 1).all())
    assert abs(float(y.mean())) > 0.5


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "diffsae-toolkit"])
def test_every_recipe_trains(name):
    recipe = preset(name, d_model=D, n_steps=3)
    x = torch.randn((300, 2, D) if recipe.dictionary.kind == "crosscoder" else (300, D), generator=generator(0))
    stats = statistics_of(x) if recipe.scaled else raw_units(statistics_of(x))
    dictionary = build(recipe.dictionary, stats, seed=0)
    result = train(dictionary, tensor_batches(x, 100, seed=0, n_steps=3), recipe.train)
    assert result.n_steps == 3 and result.fvu > 0
    assert len(recipe.source) > 10


def test_the_width_follows_the_model():
    assert preset("diffsae-toolkit", d_model=576, n_steps=10).dictionary.n_latents == 1152
    assert preset("crosscoder-minder-2025", d_model=576, n_steps=10).dictionary.anneal.start == 1024
    assert preset("jumprelu-2024", d_model=100, n_steps=10).train == TrainConfig(
        n_steps=10, lr=7e-5, bias_lr_factor=10.0, betas=(0.0, 0.999), decay=0.0
    )


def test_biases_have_the_rate_of_the_source():
    """Inputs scaled to sqrt(d) instead of 1 make biases sqrt(d) times as large; only one source scales to 1."""
    factors = {name: preset(name, d_model=64, n_steps=1).train.bias_lr_factor for name in PRESETS}
    assert factors == dict.fromkeys(PRESETS, 1.0) | {"jumprelu-2024": 8.0}


def test_an_unknown_recipe_lists_those_that_exist():
    with pytest.raises(ConfigError, match="topk-2024") as caught:
        preset("topk-2031", d_model=D, n_steps=1)
    assert caught.value.code == "unknown-preset"

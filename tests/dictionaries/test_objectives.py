"""The loss of every config, and every parameter's gradient, against the formulas in dense fp64 autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dictionary_configs import CASES
from oracles_dictionaries import dense_objective
from planted_dictionaries import generator, random_dictionary
from saeaudit.training import terms_for


def gradients(dictionary, loss):
    dictionary.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in dictionary.coder.named_parameters() if p.grad is not None}


def some_dead(n_dead, seed):
    dead = torch.zeros(20, dtype=torch.bool)
    dead[torch.randperm(20, generator=generator(seed))[:n_dead]] = True
    return dead


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000),
    n_dead=st.sampled_from([0, 1, 3, 9]),
    progress=st.sampled_from([0.03, 1.0]),
    all_negative=st.booleans(),
)
def test_loss_and_gradients_are_those_of_the_formulas(case, seed, n_dead, progress, all_negative):
    kind, given_settings = CASES[case]
    dictionary, x = random_dictionary(kind, seed=seed, dtype=torch.float64, **given_settings)
    x, dead = x[:9], some_dead(n_dead, seed)
    if all_negative:
        with torch.no_grad():
            dictionary.coder.b_enc[:] = -3
    expected = dense_objective(dictionary, x, dead, progress)
    wanted = gradients(dictionary, expected)
    forward = dictionary.coder(x)
    loss = sum(term(forward, dead, progress) for term in terms_for(dictionary.config))
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    found = gradients(dictionary, loss)
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-6, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert all(float(found[name].abs().max()) == 0 for name in found.keys() - wanted.keys())


@pytest.mark.parametrize("case", CASES)
def test_dense_products_and_bags_give_the_same_gradients(case, monkeypatch):
    kind, given_settings = CASES[case]
    found = []
    for kernels in ("torch", "reference"):
        monkeypatch.setenv("SAEAUDIT_KERNELS", kernels)
        dictionary, x = random_dictionary(kind, dtype=torch.float64, **given_settings)
        forward = dictionary.coder(x[:9])
        loss = sum(term(forward, some_dead(5, 0)) for term in terms_for(dictionary.config))
        found.append(gradients(dictionary, loss))
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-9, atol=1e-12)


def test_the_oracle_is_not_blind():
    """A gate that trains the decoder, a kernel that reads f, a penalty without norms: each would be seen."""
    for case, name, ruin in (
        ("gated", "W_dec", lambda d: setattr(d.coder, "unit_norm", False)),
        ("jumprelu", "sparsity.log_threshold", lambda d: setattr(d.coder.sparsity, "bandwidth", 0.4)),
        ("relu", "W_dec", lambda d: setattr(d.coder, "unit_norm", True)),
    ):
        kind, given_settings = CASES[case]
        dictionary, x = random_dictionary(kind, dtype=torch.float64, **given_settings)
        wanted = gradients(dictionary, dense_objective(dictionary, x[:9], some_dead(0, 0), 1.0))
        ruin(dictionary)
        forward = dictionary.coder(x[:9])
        found = gradients(dictionary, sum(term(forward, some_dead(0, 0)) for term in terms_for(dictionary.config)))
        assert not torch.allclose(found[name], wanted[name], rtol=1e-3), case

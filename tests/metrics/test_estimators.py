import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression, Ridge

from saeaudit.errors import EvidenceError, NumericsError
from saeaudit.metrics import (
    auroc,
    fit_aligned_residual,
    fit_linear_probe,
    fit_mahalanobis,
    fit_mean_difference,
    fit_pca,
    ledoit_wolf,
    stable_precision,
    token_kl,
)


def cloud(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) @ torch.diag(torch.linspace(0.3, 3, d)) + 5


@pytest.mark.parametrize("shape", [(40, 8), (20, 50), (500, 5)])
def test_shrinkage_equals_sklearn(shape):
    x = cloud(*shape)
    ours, theirs = ledoit_wolf(x), LedoitWolf().fit(x.double().numpy())
    assert ours.shrinkage == pytest.approx(theirs.shrinkage_, rel=1e-8)
    assert ours.covariance.numpy() == pytest.approx(theirs.covariance_, rel=1e-8, abs=1e-10)


def test_mahalanobis_is_affine_fair_and_finite_for_constant_rows():
    x = cloud(4000, 6)
    distance = fit_mahalanobis(x)
    assert float(distance(x).mean()) == pytest.approx(6, rel=0.02)
    assert float(distance(x.mean(0, keepdim=True))) == pytest.approx(0, abs=1e-8)
    flat = fit_mahalanobis(torch.zeros(20, 3))
    assert flat(torch.zeros(4, 3)).tolist() == [0] * 4
    assert flat(torch.tensor([[3.0, 4.0, 0.0]])).tolist() == [25.0]
    with pytest.raises(EvidenceError):
        fit_mahalanobis(torch.zeros(1, 3))


def test_precision_inverts_where_it_can():
    covariance = torch.diag(torch.tensor([4.0, 1.0, 0.0])).double()
    product = stable_precision(covariance) @ covariance
    assert product.diagonal()[:2].tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(("n", "d"), [(120, 6), (40, 90)])
@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_probe_is_sklearns_optimum(n, d, l2):
    x = cloud(n, d)
    label = (x[:, 0] + x[:, 1] + torch.randn(n, generator=torch.Generator().manual_seed(1))) > 11
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    theirs = LogisticRegression(C=1 / l2, class_weight="balanced", tol=1e-10, max_iter=20000)
    theirs.fit(standard, label.numpy())
    ours = fit_linear_probe(x, label, l2=l2)
    assert ours(x).numpy() == pytest.approx(theirs.decision_function(standard), abs=2e-4)


def test_probe_survives_separable_constant_and_bad_columns():
    label = torch.arange(20) < 8
    x = torch.stack([label.float(), torch.full((20,), 7.0)], 1)
    probe = fit_linear_probe(x, label, l2=1e-3)
    assert auroc(probe(x), label) == 1 and float(probe.weight[1]) == 0
    assert len(fit_linear_probe(torch.zeros(20, 2), label)(torch.zeros(5, 2)).unique()) == 1
    x[3, 0] = float("inf")
    with pytest.raises(NumericsError):
        fit_linear_probe(x, label)
    with pytest.raises(EvidenceError):
        fit_linear_probe(x, torch.zeros(20, dtype=torch.bool))


def test_whitening_finds_the_quiet_direction_that_the_plain_difference_misses():
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(1000) < 500
    x = torch.randn(1000, 2, generator=generator) * torch.tensor([30.0, 0.1])
    x[:, 1] += 0.5 * label
    plain, white = fit_mean_difference(x, label), fit_mean_difference(x, label, whiten=True)
    assert auroc(white(x), label) > 0.95 > 0.7 > auroc(plain(x), label)
    means = torch.stack([x[label].mean(0), x[~label].mean(0)])
    assert float(plain(means).sum()) == pytest.approx(0, abs=1e-6)


def test_pca_measures_along_and_away():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(200, 4)
    x[:, :2] = torch.randn(200, 2, generator=generator) * torch.tensor([5.0, 1.0])
    pca = fit_pca(x, n_components=2)
    assert torch.allclose(pca.components @ pca.components.T, torch.eye(2).double(), atol=1e-10)
    assert float(pca.residual_energy(x).max()) < 1e-9
    assert float(pca.residual_energy(torch.tensor([[0.0, 0, 3, 4]]))) == pytest.approx(25, rel=1e-6)
    assert float(pca.largest_z(x.mean(0, keepdim=True) + torch.tensor([[50.0, 0, 0, 0]]))) == pytest.approx(
        10, rel=0.15
    )
    flat = fit_pca(torch.ones(10, 3))
    assert flat.largest_z(torch.ones(2, 3)).tolist() == flat.residual_energy(torch.ones(2, 3)).tolist() == [0, 0]


def test_aligned_residual_removes_a_linear_map_and_keeps_the_rest():
    generator = torch.Generator().manual_seed(0)
    h0 = torch.randn(300, 10, generator=generator)
    change = 0.3 * torch.randn(10, 10, generator=generator)
    delta = h0 @ change + 2 + 0.01 * torch.randn(300, 10, generator=generator)
    fit = fit_aligned_residual(h0[:200], delta[:200])
    residual = fit.residual(h0[200:], delta[200:])
    assert float(residual.square().mean()) < 0.01 * float(delta.var())
    strange = delta[200:].clone()
    strange[:, 3] += 0.3
    assert float(fit(h0[200:], strange).min()) > float(fit(h0[200:], delta[200:]).max())


def test_aligned_residual_equals_ridge_and_its_left_out_residuals_are_exact():
    h0, delta = cloud(30, 12, seed=1), cloud(30, 12, seed=2)
    fit = fit_aligned_residual(h0, delta)
    penalty = fit.penalty_relative * float(torch.linalg.eigvalsh((h0 - h0.mean(0)) @ (h0 - h0.mean(0)).T).mean())
    ridge = Ridge(alpha=penalty).fit(h0.double().numpy(), delta.double().numpy())
    expected = delta.numpy() - ridge.predict(h0.double().numpy())
    assert fit.residual(h0, delta).numpy() == pytest.approx(expected, abs=1e-4)
    left_out = []
    for i in range(30):
        keep = np.arange(30) != i
        one = Ridge(alpha=penalty).fit(h0.double().numpy()[keep], delta.double().numpy()[keep])
        left_out.append(delta[i].numpy() - one.predict(h0[i : i + 1].double().numpy())[0])
    slow = fit_mahalanobis(torch.from_numpy(np.array(left_out)))
    assert slow.precision.numpy() == pytest.approx(fit.distance.precision.numpy(), rel=2e-3, abs=1e-4)


def test_token_kl_is_zero_for_equals_and_matches_a_sum_by_hand():
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    by_hand = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert float(token_kl(p.log(), q.log())) == pytest.approx(by_hand, rel=1e-5)
    assert float(token_kl(p.log() + 3, p.log())) == 0
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert token_kl(logits, logits + 1).dtype == torch.float32

"""Defects that other packages have or had, as claims about ours; each test's docstring names the package.

`DEFECTS` says where each one is tested. Those without a place beside their subject are below.
"""

import ast
from pathlib import Path

import pytest
import torch

from planted_dictionaries import generator, random_dictionary
from saeaudit.metrics import Reconstruction as Fit
from saeaudit.metrics import token_kl
from saeaudit.statistics import StatisticsFitter
from saeaudit.training import AuxK, Reconstruction

HERE = "interop/test_peers_defects.py"
DEFECTS = {
    "a default sparsify file is turned, and its bias not subtracted": (
        "interop/test_reading.py::test_the_default_of_sparsify_is_read_as_it_is_trained",
        "SAELens",
    ),
    "AuxK does not reach the encoder": (
        "dictionaries/test_gradients.py::test_auxk_reaches_the_encoder_of_dead_latents_and_of_nothing_else",
        "sparsify",
    ),
    "AuxK adds the decoder bias twice": (
        f"{HERE}::test_auxk_explains_the_residual_without_the_bias",
        "sparsify",
    ),
    "places that are chosen and clipped get a gradient": (
        "dictionaries/test_gradients.py::test_a_clipped_place_sends_no_gradient",
        "sparsify",
    ),
    "a running deviation of bf16 rows is far off": (
        f"{HERE}::test_the_deviation_of_half_precision_rows",
        "crosscoder_learning",
    ),
    "the kernel of JumpReLU's L0 sees one side of the threshold": (
        "dictionaries/test_rules.py::test_the_kernel_estimates_the_density_at_the_threshold_from_both_sides",
        "dictionary_learning",
    ),
    "a short BatchTopK run is dense at inference": (
        "training/test_calibrate.py::test_inference_is_as_sparse_as_asked_even_after_a_short_run",
        "dictionary_learning",
    ),
    "a refill repeats rows": (
        "training/test_batches.py::test_an_epoch_is_a_permutation_and_epochs_differ",
        "crosscoder-model-diff-replication",
    ),
    "a stream ends without a word": ("training/test_loop.py::test_a_stream_that_ends_early_says_when", "SAELens"),
    "the error depends on the batch size or the fold": (
        f"{HERE}::test_the_error_does_not_depend_on_batches_or_folding",
        "SAELens",
    ),
    "KL of confident logits is infinite": (f"{HERE}::test_the_divergence_of_confident_logits_is_finite", "SAELens"),
    "thresholds stay when norms are folded": (
        "dictionaries/test_frozen_views.py::test_only_a_threshold_that_is_scaled_with_the_norms_keeps_a_jumprelu",
        "SAELens",
    ),
    "the error is not squared and nothing says so": (
        f"{HERE}::test_the_error_is_squared_unless_another_is_named",
        "crosscoder_learning",
    ),
    "text is tokenised again": (
        "activations/test_documents.py::test_ids_are_those_of_the_tokenizer_and_rows_start_after_the_skipped_positions",
        "diffing-toolkit",
    ),
    "a backup cannot be continued": (
        "training/test_resume.py::test_a_killed_run_continues_bit_for_bit",
        "dictionary_learning",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_has_a_test_that_names_the_package(defect):
    place, package = DEFECTS[defect]
    file, name = place.split("::")
    tree = ast.parse((Path(__file__).parents[1] / file).read_text())
    tests = {node.name: ast.get_docstring(node) for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert package in (tests[name] or "")


def test_auxk_explains_the_residual_without_the_bias():
    """sparsify adds it: then moving data and bias together changes what dead latents have to explain."""
    dictionary, x = random_dictionary("sae", dtype=torch.float64)
    coder, dead = dictionary.coder, torch.arange(20) < 6
    before = AuxK(alpha=1.0, k=4)(coder(x), dead).detach()
    moved = torch.randn(6, generator=generator(1)).double()
    with torch.no_grad():
        coder.b_dec += moved
        coder.b_enc -= coder.W_enc @ moved
    after = AuxK(alpha=1.0, k=4)(coder(x + moved * coder.scale), dead).detach()
    assert before > 0
    torch.testing.assert_close(after, before)


def test_the_deviation_of_half_precision_rows():
    """crosscoder_learning keeps its running moments in the dtype of the rows and finds 0.83 here instead of 2."""
    fitter = StatisticsFitter()
    rows = 3 + 2 * torch.randn(3000, 256, generator=generator(0))
    for batch in rows.bfloat16().split(100):
        fitter.update(batch)
    assert float(fitter.result().scale) == pytest.approx(2, abs=0.002)


@pytest.mark.parametrize("kind", ["sae", "crosscoder"])
def test_the_error_does_not_depend_on_batches_or_folding(kind):
    """SAELens had means of batch means, and a folded dictionary with another error."""
    dictionary, x = random_dictionary(kind)
    found = []
    for view in (dictionary, dictionary.fold()):
        for size in (1, 7, len(x)):
            fit = Fit(x.flatten(1).mean(0), n_groups=1)
            for rows in x.split(size):
                x_hat = view.decode(view.encode(rows)).detach()
                fit.update(rows.flatten(1), x_hat.flatten(1), torch.zeros(len(rows), dtype=torch.int64))
            found.append(fit.result(n_resamples=0, seed=0).fvu.value)
    assert max(found) - min(found) < 1e-6 * max(found)


def test_the_divergence_of_confident_logits_is_finite():
    """SAELens took the logarithm of probabilities, which underflow to 0 where a model is sure of something else."""
    sure = torch.tensor([[0.0, -2000.0], [-2000.0, 0.0]])
    divergence = token_kl(sure, sure.flip(0))
    torch.testing.assert_close(divergence, torch.full((2,), 2000.0))
    p, q = sure.softmax(-1), sure.flip(0).softmax(-1)
    assert not bool((p * (p / q).log()).sum(-1).isfinite().any()), "the plain formula fails here"


def test_the_error_is_squared_unless_another_is_named():
    """crosscoder_learning trains the mean norm of the error; here that is an option with a name."""
    dictionary, x = random_dictionary("crosscoder", dtype=torch.float64)
    forward, dead = dictionary.coder(x), torch.zeros(20, dtype=torch.bool)
    error = forward.error.square().sum(1)
    torch.testing.assert_close(Reconstruction()(forward, dead), error.mean() / 12)
    torch.testing.assert_close(Reconstruction("l2norm")(forward, dead), error.sqrt().mean())

import pytest
import torch

from dictionary_configs import RULES
from oracles_dictionaries import largest_places
from planted_dictionaries import dictionary_for, planted, random_dictionary
from saeaudit.errors import EvidenceError
from saeaudit.training import TrainConfig, calibrate, evaluate, tensor_batches, train


@pytest.mark.parametrize("kind", ["sae", "crosscoder"])
@pytest.mark.parametrize("batch_size", [7, 200])
def test_the_threshold_is_the_exact_cutoff_of_the_stream(kind, batch_size):
    dictionary, x = random_dictionary(kind)
    coder = dictionary.coder
    z = (coder.scaled(x) @ coder.W_enc.flatten(1).T + coder.b_enc).detach().relu()
    score = z if kind == "sae" else z * coder.W_dec.detach().norm(dim=-1).sum(1)
    expected = float(score.flatten()[largest_places(score, 3 * len(x))].min())
    result = calibrate(dictionary, x.split(batch_size))
    assert result.threshold == pytest.approx(expected, rel=1e-5)
    assert result.n_tokens == len(x) and result.l0 == pytest.approx(3, abs=0.01)
    assert dictionary.provenance.threshold_source == "calibrated"


@pytest.mark.parametrize("n_steps", [200, 600])
def test_inference_is_as_sparse_as_asked_even_after_a_short_run(n_steps):
    """dictionary_learning keeps a threshold of -1 before step 1 000: a shorter run is dense at inference."""
    data = planted(12_000)
    dictionary = dictionary_for(data.x, n_latents=128)
    train(dictionary, tensor_batches(data.x, 256, seed=0, n_steps=n_steps), TrainConfig(n_steps=n_steps, lr=3e-3))
    assert dictionary.provenance.threshold_source == "running"
    assert evaluate(dictionary, [data.x[:2000]]).l0 < 6, "the running threshold must not leave the code dense"
    calibrate(dictionary, planted(8000, rows_seed=5).x.split(500))
    held_out = evaluate(dictionary, [planted(8000, rows_seed=9).x])
    assert held_out.l0 == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize("rule", ["batchtopk", "matryoshka", "topk"])
def test_a_rule_that_counts_keeps_its_count_at_inference(rule):
    data = planted(12_000)
    dictionary = dictionary_for(data.x, n_latents=128, sparsity=rule)
    train(dictionary, tensor_batches(data.x, 256, seed=0, n_steps=200), TrainConfig(n_steps=200, lr=3e-3))
    calibrate(dictionary, planted(8000, rows_seed=5).x.split(500))
    held_out = evaluate(dictionary, [planted(8000, rows_seed=9).x])
    # A row of TopK has fewer where fewer values are positive.
    assert held_out.l0 == pytest.approx(3, rel=0.02 if rule != "topk" else 0.1)


@pytest.mark.parametrize("rule", ["relu", "gated", "jumprelu", "topk"])
def test_a_rule_without_a_threshold_is_measured_and_left_alone(rule):
    dictionary, x = random_dictionary("sae", **RULES[rule])
    before = {name: tensor.clone() for name, tensor in dictionary.coder.state_dict().items()}
    result = calibrate(dictionary, x.split(33))
    assert result.threshold is None and result.n_tokens == 200
    assert result.l0 == pytest.approx(evaluate(dictionary, [x]).l0)
    assert all(torch.equal(before[name], tensor) for name, tensor in dictionary.coder.state_dict().items())
    assert dictionary.provenance.threshold_source == "none"


def test_every_range_is_calibrated_by_itself():
    ranges = [{"n_latents": 12, "k": 2}, {"n_latents": 8, "k": 1}]
    dictionary, x = random_dictionary("crosscoder", crosscoder={"ranges": ranges})
    result = calibrate(dictionary, x.split(70))
    code = dictionary.encode(x)
    first = int(((code.values > 0) & (code.indices < 12)).sum())
    second = int(((code.values > 0) & (code.indices >= 12)).sum())
    assert (first, second) == pytest.approx((2 * len(x) - 1, len(x) - 1), abs=1)
    assert len(result.threshold) == 2 and result.threshold[0] != result.threshold[1]
    assert result.l0 == pytest.approx(3, abs=0.02)


def test_reading_stops_at_max_rows_and_memory_pruning_does_not_change_the_result():
    dictionary, x = random_dictionary("sae", k=1)  # about 9 scores a row are positive, 4 are kept
    x = x.repeat(60, 1)[torch.randperm(12_000, generator=torch.Generator().manual_seed(0))]
    pruned = calibrate(dictionary, x.split(100)).threshold
    assert pruned == calibrate(dictionary, [x]).threshold
    assert calibrate(dictionary, x.split(100), max_rows=250).n_tokens == 250


def test_a_stream_sorted_by_size_is_refused():
    dictionary, x = random_dictionary("sae", k=1)
    shift = dictionary.coder.shift
    loud, quiet = shift + (x - shift) * 20, shift + (x - shift) * 0.5
    with pytest.raises(EvidenceError, match="shuffle") as caught:
        calibrate(dictionary, [*loud.split(50), *quiet.repeat(20, 1).split(50)])
    assert caught.value.code == "stream-not-shuffled"


def test_no_rows_is_an_error():
    dictionary, _ = random_dictionary("sae")
    for function in (calibrate, evaluate):
        with pytest.raises(EvidenceError) as caught:
            function(dictionary, [])
        assert caught.value.code == "no-rows"


def test_fewer_positives_than_asked_keeps_them_all():
    dictionary, x = random_dictionary("sae", k=20)
    assert calibrate(dictionary, [x]).threshold == 0

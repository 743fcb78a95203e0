import pytest
import torch
from pydantic import ValidationError

from planted_dictionaries import dictionary_for, generator, random_dictionary
from saeaudit.dictionaries import DictionaryConfig, build
from saeaudit.errors import ConfigError, InputError, NumericsError
from saeaudit.statistics import SiteStatistics


def test_sides_of_a_difference_are_consistent():
    dictionary, delta = random_dictionary("diff")
    x0 = torch.randn(delta.shape, generator=generator(3))
    x1 = x0 + delta
    code = dictionary.encode(delta)
    step_up = dictionary.decode_side(code, 1, given=x0) - x0
    step_down = x1 - dictionary.decode_side(code, 0, given=x1)
    torch.testing.assert_close(step_up, step_down, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(step_up, dictionary.decode(code), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        dictionary.coder.threshold.fill_(1e9)
        dictionary.coder.b_dec.zero_()
    nothing = dictionary.encode(delta)
    torch.testing.assert_close(dictionary.decode_side(nothing, 1, given=x0), x0)


def test_scaled_activations_have_unit_mean_square_and_sides_share_a_unit():
    x = torch.randn(4000, 2, 8, generator=generator(0)) * torch.tensor([[[1.0], [3.0]]]) + 5
    dictionary = dictionary_for(x, "crosscoder")
    y = dictionary.coder.scaled(x)
    centred = y - y.mean(0)
    assert float(centred.square().sum(1).mean()) == pytest.approx(16, rel=1e-3)
    ratio = centred[:, 8:].std() / centred[:, :8].std()
    assert float(ratio) == pytest.approx(3, rel=0.05)
    assert dictionary.coder.scale[0] == dictionary.coder.scale[1]
    torch.testing.assert_close(dictionary.coder.unscaled(y), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["sae", "diff", "crosscoder"])
def test_an_untrained_dictionary_starts_at_the_mean_with_tied_unit_rows(kind):
    shape = (500, 2, 6) if kind == "crosscoder" else (500, 6)
    x = torch.randn(shape, generator=generator(0)) + torch.arange(6)
    dictionary = dictionary_for(x, kind)
    nothing = dictionary.encode(x)
    nothing = type(nothing)(torch.zeros_like(nothing.values), nothing.indices)
    torch.testing.assert_close(dictionary.decode(nothing)[0], x.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dictionary.W_enc, dictionary.W_dec)
    torch.testing.assert_close(dictionary.W_dec.flatten(1).norm(dim=1), torch.ones(64))
    pre = dictionary.coder(x).pre
    assert abs(float(pre.mean())) < 0.15


def test_seeds_decide_the_start():
    x = torch.randn(50, 6, generator=generator(0))
    first, again, other = (dictionary_for(x, seed=seed).W_dec for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 65},
        {"k": 0},
        {"n_latents": 0},
        {"kind": "relu"},
        {"sparsity": "relu"},
        {"aux_alpha": -1.0},
        {"aux_k": 0},
        {"colour": "red"},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        DictionaryConfig(**{"kind": "sae", "n_latents": 64, "k": 3, **settings})


def test_a_config_is_frozen():
    with pytest.raises(ValidationError):
        DictionaryConfig(kind="sae", n_latents=4, k=1).k = 2


@pytest.mark.parametrize(
    ("kind", "shape"), [("sae", (5, 7)), ("diff", (5, 2, 6)), ("crosscoder", (5, 6)), ("sae", (6,))]
)
def test_a_wrong_shape_names_the_axes(kind, shape):
    dictionary, _ = random_dictionary(kind)
    with pytest.raises(InputError, match="batch") as caught:
        dictionary.encode(torch.zeros(shape))
    assert caught.value.code == "shape"
    assert str(tuple(shape)) in str(caught.value) and "6" in str(caught.value)


def test_integers_are_refused_and_half_precision_is_read():
    dictionary, x = random_dictionary("sae")
    with pytest.raises(InputError) as caught:
        dictionary.encode(torch.zeros(2, 6, dtype=torch.int64))
    assert caught.value.code == "dtype"
    assert dictionary.encode(x.bfloat16()).values.dtype == torch.float32


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_site_without_variance_is_refused(scale):
    stats = SiteStatistics(torch.zeros(6), torch.tensor(scale), 10)
    with pytest.raises(NumericsError, match="identical") as caught:
        build(DictionaryConfig(kind="diff", n_latents=8, k=1), stats, seed=0)
    assert caught.value.code == "degenerate-activations"


@pytest.mark.parametrize(
    ("kind", "mean", "scale"), [("sae", (2, 6), (2,)), ("crosscoder", (6,), ()), ("crosscoder", (3, 6), (3,))]
)
def test_statistics_of_another_kind_are_refused(kind, mean, scale):
    with pytest.raises(ConfigError) as caught:
        build(
            DictionaryConfig(kind=kind, n_latents=8, k=1),
            SiteStatistics(torch.zeros(mean), torch.ones(scale), 9),
            seed=0,
        )
    assert caught.value.code == "statistics-shape"

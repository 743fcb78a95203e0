"""Every kind of kernels against dense fp64 autograd, and the choice between them.

The Triton kernels need a GPU, or TRITON_INTERPRET=1 from the start of the process; `test_kernels_triton` starts one.
"""

import os

import pytest
import torch

from planted_dictionaries import generator
from saeaudit.dictionaries.code import places_of_flat
from saeaudit.dictionaries.kernels import backend, choice, reference, with_torch
from saeaudit.dictionaries.ops import decode_at, dot_at, linear_at
from saeaudit.errors import ConfigError, MissingExtra

ON_CPU = ["triton"] if os.environ.get("TRITON_INTERPRET") == "1" else ["reference", "torch"]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")

# rows, latents, width (of one side or of two), active latents a row
SHAPES = {
    "latents not a multiple of 8": (5, 13, 24, 3),
    "one active": (9, 16, 8, 1),
    "all active": (4, 11, 6, 11),
    "two sides, more columns than a block": (3, 10, 2 * 70, 4),
    "more active than a block": (2, 70, 5, 40),
    "one row": (1, 9, 4, 2),
}


def places_for(shape, *, empty=True):
    """Some places of every second row only, so that rows and latents without any lie between others."""
    rows, latents, _, k = shape
    chosen = torch.zeros(rows, latents, dtype=torch.bool)
    for row in range(0, rows, 2 if empty else 1):
        chosen[row, torch.randperm(latents, generator=generator(row))[:k]] = True
    return places_of_flat(chosen.flatten().nonzero().squeeze(1), rows, latents)


def numbers_for(shape, places, dtype):
    rows, latents, width, _ = shape
    g = generator(7)
    sizes = {"x": (rows, width), "W": (latents, width), "b": (latents,), "values": (len(places.latents),)}
    return {name: torch.randn(size, generator=g).to(dtype) for name, size in sizes.items()}


def sparse(x, W, b, values, places):
    """All operations, and one scalar whose gradient reaches every argument through each of them."""
    z = linear_at((x @ W.T + b).detach().reshape(-1)[places.flat], x, W, b, places)
    recon = decode_at(z * values, W, places)
    return {"recon": recon, "dots": dot_at(x, W, places)}, (recon.sin().sum() + z.square().sum())


def dense(x, W, b, values, places):
    z = (x @ W.T + b).reshape(-1)[places.flat]
    recon = places.matrix(z * values) @ W
    return {"recon": recon, "dots": (x @ W.T).reshape(-1)[places.flat]}, (recon.sin().sum() + z.square().sum())


def compare(shape, dtype, device, *, empty, forward, backward):
    places = places_for(shape, empty=empty)
    numbers = numbers_for(shape, places, dtype)
    exact = {name: number.double().requires_grad_() for name, number in numbers.items()}
    own = places_of_flat(places.flat.to(device), places.n_rows, places.n_latents)
    found = {name: number.to(device).requires_grad_() for name, number in numbers.items()}
    (wanted, loss), (outputs, own_loss) = dense(**exact, places=places), sparse(**found, places=own)
    for name, value in outputs.items():
        assert value.dtype == dtype
        close(value, wanted[name], forward, name)
    loss.backward()
    own_loss.backward()
    for name in exact:
        close(found[name].grad, exact[name].grad, backward, f"gradient of {name}")


def compare_sums(shape, dtype, device, *, tolerance):
    places = places_for(shape)
    x, W, _, values = numbers_for(shape, places, dtype).values()
    own = places_of_flat(places.flat.to(device), places.n_rows, places.n_latents)
    kernels = backend(device)
    for name, arguments in {"bag": (values, W), "dots": (x, W), "weight_gradient": (values, x)}.items():
        found = getattr(kernels, name)(*(a.to(device) for a in arguments), own)
        assert found.dtype == dtype
        close(found, getattr(reference, name)(*(a.double() for a in arguments), places), tolerance, name)


def close(found, wanted, tolerance, name):
    """Relative to the largest entry: sums of numbers of both signs have no relative precision of their own."""
    scale = max(1.0, float(wanted.detach().abs().max())) if wanted.numel() else 1.0
    torch.testing.assert_close(
        found.detach().cpu().double() / scale,
        wanted.detach() / scale,
        rtol=0,
        atol=tolerance,
        msg=lambda m: f"{name}: {m}",
    )


@pytest.mark.parametrize("empty", [False, True], ids=["full", "empty rows"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kernels", ON_CPU)
def test_float32_is_dense_autograd(kernels, shape, empty, monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, kernels)
    compare(shape, torch.float32, CPU, empty=empty, forward=1e-5, backward=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kernels", ON_CPU)
def test_bfloat16_is_the_exact_sum_up_to_its_rounding(kernels, shape, monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, kernels)
    compare_sums(shape, torch.bfloat16, CPU, tolerance=1e-2)


@pytest.mark.parametrize("kernels", ON_CPU)
def test_no_place_at_all(kernels, monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, kernels)
    compare((4, 5, 3, 0), torch.float32, CPU, empty=False, forward=0, backward=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kernels", ["reference", "torch", "triton"])
def test_on_a_gpu(kernels, shape, monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, kernels)
    compare(shape, torch.float32, CUDA, empty=True, forward=1e-5, backward=1e-4)
    compare_sums(shape, torch.bfloat16, CUDA, tolerance=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradients_on_a_gpu_repeat_bit_for_bit():
    places = places_of_flat(torch.rand(512 * 300, device=CUDA).gt(0.9).nonzero().squeeze(1), 512, 300)
    values, y = torch.rand(len(places.latents), device=CUDA), torch.rand(512, 96, device=CUDA)
    kernels = backend(CUDA)
    first = kernels.weight_gradient(values, y, places)
    assert all(torch.equal(first, kernels.weight_gradient(values, y, places)) for _ in range(5))


def test_kernels_follow_the_device_and_the_share_of_places(monkeypatch):
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    assert backend(CPU) is with_torch
    assert backend(CPU, share=0.5) is reference
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    assert backend(CUDA) is with_torch, "without Triton a GPU runs plain torch"


@pytest.mark.parametrize(("name", "module"), [("reference", reference), ("torch", with_torch)])
def test_what_is_forced_runs_whatever_the_share(name, module, monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, name)
    assert backend(CPU) is backend(CPU, share=1.0) is backend(CUDA) is module


def test_a_forced_choice_that_cannot_run_is_an_error(monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "cuda")
    with pytest.raises(ConfigError, match="choose one of reference, torch, triton") as unknown:
        backend(CPU)
    monkeypatch.setenv(choice.VARIABLE, "triton")
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'saeaudit\[triton\]'") as missing:
        backend(CUDA)
    monkeypatch.setattr(choice, "find_spec", lambda name: name)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match="on the CPU") as elsewhere:
        backend(CPU)
    assert [e.value.code for e in (unknown, missing, elsewhere)] == [
        "unknown-kernels",
        "missing-triton",
        "kernels-device",
    ]

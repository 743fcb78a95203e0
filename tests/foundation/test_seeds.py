import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saeaudit.seeds import derive, numpy_generator, python_random, torch_generator


def test_streams_are_the_same_in_every_process():
    code = "from saeaudit.seeds import derive; print(derive(7, 'init', 3))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == derive(7, "init", 3)


@settings(deadline=None)
@given(st.integers(), st.lists(st.text(max_size=5), max_size=3), st.lists(st.text(max_size=5), max_size=3))
def test_a_seed_fits_63_bits_and_names_and_numbers_tell_streams_apart(seed, names, others):
    assert 0 <= derive(seed, *names) < 2**63
    assert derive(seed, *names) != derive(seed + 1, *names)
    if names != others and not any("\x1f" in name for name in names + others):
        assert derive(seed, *names) != derive(seed, *others) or "".join(names) == "".join(others) == ""


def test_generators_start_at_their_stream_and_do_not_share_a_state():
    first, again, other = (torch.randn(4, generator=torch_generator(0, name)) for name in "aab")
    assert torch.equal(first, again) and not torch.equal(first, other)
    state = torch.random.get_rng_state()
    assert numpy_generator(0, "a").random() == numpy_generator(0, "a").random() != numpy_generator(1, "a").random()
    assert python_random(0, "a").random() == python_random(0, "a").random() != python_random(0, "b").random()
    assert torch.equal(torch.random.get_rng_state(), state)

"""A device made of CPU tensors, for machines without a GPU: an operation that mixes it with CPU tensors is an error.

    python tests/imitation_device.py COMMAND ... [-- COMMAND ...]     # saeaudit, knowing the device "imitation"

It stands for what a GPU refuses, not for how fast or in which order it computes. One process, one device: registering
it cannot be undone.
"""

import sys

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "imitation"
# A GPU takes CPU tensors as indices, as sources and targets of copies, and numbers without axes everywhere.
MIXING = {"aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::copy_", "aten::_to_copy"}


class Imitation(torch.Tensor):
    """A tensor of the device; `inner` is the CPU tensor behind it."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=f"{NAME}:0",
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return run(operation, *args, **(kwargs or {}))

    def tolist(self):
        return self.inner.tolist()


def run(operation, *args, **kwargs):
    """Do an operation with what is behind its tensors; its results are on the device, unless it copies to the CPU."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, Imitation)]
    others = [t for t in tensors if not isinstance(t, Imitation) and t.dim() > 0]
    if ours and others and operation._schema.name not in MIXING:
        raise RuntimeError(f"{operation._schema.name}: tensors of the CPU and of the device {NAME!r}")
    target = kwargs.get("device")
    if target is not None:
        kwargs["device"] = "cpu"
    args, kwargs = tree_map(lambda t: t.inner if isinstance(t, Imitation) else t, (args, kwargs))
    found = operation(*args, **kwargs)
    if operation._schema.name == "aten::_to_copy" and target is not None and torch.device(target).type == "cpu":
        return found
    changed = {id(t.inner): t for t in ours} | {id(t): t for t in tensors}

    def placed(value):
        if not isinstance(value, torch.Tensor):
            return value
        return changed[id(value)] if id(value) in changed else Imitation(value)

    return tree_map(placed, found)


def register():
    """Make the device known to torch in this process; return what must be kept alive."""
    _setup_privateuseone_for_python_backend(NAME)
    everything, some = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(run, "PrivateUse1")
    for name in ("arange", "arange.start", "arange.start_step"):  # torch would make them empty, and longer then
        some.impl(name, lambda *ends, **more: Imitation(torch.arange(*ends, dtype=more.get("dtype"))), "PrivateUse1")
    made = torch.tensor
    torch.tensor = lambda data, device=None, **more: made(data, **more).to(device or "cpu")
    return everything, some


if __name__ == "__main__":
    kept = register()

    from saeaudit.audit import device
    from saeaudit.cli.main import run as command

    device._DEVICES += f"|{NAME}"
    for line in " ".join(sys.argv[1:]).split(" -- "):
        sys.argv = ["saeaudit", *line.split()]
        try:
            command()
        except SystemExit as stop:
            if stop.code:
                raise

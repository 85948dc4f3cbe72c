"""A stand-in for CUDA graphs that needs no GPU: captures operations on a CPU, and repeats them.

Like a graph it repeats each operation with the very tensors and numbers of the capture. What a
step takes from anywhere else (a Python number that changes, a batch elsewhere in memory) stays as
it was then, and the results tell.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Operations(TorchDispatchMode):
    """Notes operations, and what was in memory that they change but did not make."""

    def __init__(self):
        super().__init__()
        self.taken = []
        self.before = {}
        self._made = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for argument, value in zip(function._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(value)
        result = function(*args, **kwargs)
        given = {_place(tensor) for tensor in _tensors((args, kwargs))}
        self._made |= {_place(tensor) for tensor in _tensors(result)} - given
        self.taken.append((function, args, kwargs, result))
        return result

    def _keep(self, value):
        for tensor in _tensors(value):
            place = _place(tensor)
            if place not in self._made and place not in self.before:
                memory = tensor.untyped_storage()
                self.before[place] = memory, memory.clone()


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _place(tensor):
    return tensor.untyped_storage().data_ptr()


def capture_operations(function, generators):
    """Capture a function, as `ndt_cli.engine.cuda_graphs.CudaGraphs` does.

    To be captured, the function must run; what it changed is put back, for a graph would not have.
    """
    states = [generator.get_state() for generator in generators]
    operations = _Operations()
    with operations:
        function()
    for memory, content in operations.before.values():
        memory.copy_(content)
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)

    @torch.no_grad()
    def replay():
        for repeat, args, kwargs, result in operations.taken:
            again = repeat(*args, **kwargs)
            for old, new in zip(_tensors(result), _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    return replay

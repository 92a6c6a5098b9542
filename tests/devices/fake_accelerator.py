"""An accelerator that is none: tensors that say ``fakegpu:0`` and compute on the CPU.

It finds on a machine without a GPU what fails on one: two devices mixed in one operation, a
generator of another device, ``.numpy()`` of what is not on the CPU. :func:`install` changes torch
for the whole process and cannot be undone, so it runs in a process of its own. It rests on private
parts of torch, which :data:`SUPPORTED` guards; what a real device computes it does not show.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

SUPPORTED = hasattr(backend_registration, "_setup_privateuseone_for_python_backend") and hasattr(
    torch._C, "_set_only_lift_cpu_tensors"
)
"""Whether this torch lets a device be written in Python."""

NAME = "fakegpu"
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_BETWEEN_DEVICES = {"copy_", "_to_copy", "_local_scalar_dense"}


class MixedDevicesError(RuntimeError):
    """Two devices in one operation, as a real accelerator refuses them."""


class FakeTensor(Tensor):
    """A tensor that says that it is on the accelerator; ``raw`` holds its values, on the CPU."""

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[FakeTensor], raw: Tensor) -> FakeTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            requires_grad=raw.requires_grad,
            device=torch.device(NAME, 0),
        )
        made.raw = raw.detach()
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"FakeTensor({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        return self.raw.tolist()

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def untyped_storage(self) -> Any:
        return self.raw.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeTensor:
        return FakeTensor(self.raw.clone())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.raw.__reduce_ex__(protocol)


class FakeGenerator(torch.Generator):
    """A generator that remembers for which device it was made."""

    fake: bool

    def __new__(cls, device: torch.device | str = "cpu") -> FakeGenerator:
        made = super().__new__(cls)
        made.fake = _is_fake(device)
        return made

    @property
    def device(self) -> torch.device:
        return torch.device(NAME, 0) if self.fake else torch.device("cpu")


def _is_fake(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _refuse_mixtures(name: str, args: tuple[Any, ...], values: list[Tensor]) -> None:
    """Raise where a device would: only numbers, and indices into its tensors, may be elsewhere."""
    fake = [value for value in values if isinstance(value, FakeTensor)]
    vectors = [value for value in values if not isinstance(value, FakeTensor) and value.dim() > 0]
    if not fake or not vectors:
        return
    puts = name.startswith(("index_put", "_index_put"))
    indexed = name in _INDEXING and isinstance(args[0], FakeTensor)
    if indexed and (not puts or isinstance(args[2], FakeTensor) or args[2].dim() == 0):
        return
    shapes = [[tuple(value.shape) for value in part] for part in (fake, vectors)]
    raise MixedDevicesError(f"{name}: {NAME} and cpu, of shapes {shapes[0]} and {shapes[1]}")


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = func._schema.name.split("::")[-1]
    values = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    fake = [value for value in values if isinstance(value, FakeTensor)]
    if name not in _BETWEEN_DEVICES:
        _refuse_mixtures(name, args, values)
    target = kwargs.get("device")
    moves = _is_fake(target) or (bool(fake) and target is None)
    if name == "copy_":
        moves = isinstance(args[0], FakeTensor)
    if _is_fake(target):
        kwargs = kwargs | {"device": torch.device("cpu")}
    kwargs = kwargs | ({"pin_memory": False} if kwargs.get("pin_memory") else {})
    same = {id(value.raw): value for value in fake}  # of operations in place
    args, kwargs = tree_map(_raw, args), tree_map(_raw, kwargs)
    return tree_map(lambda value: _wrapped(value, same, moves), func(*args, **kwargs))


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, FakeTensor) else value


def _wrapped(value: Any, same: dict[int, FakeTensor], moves: bool) -> Any:
    if not isinstance(value, Tensor):
        return value
    if id(value) in same:
        return same[id(value)]
    return FakeTensor(value) if moves else value


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Generators(TorchFunctionMode):
    """Refuses a generator of another device than that of what is drawn."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is not None:
            drawn = _is_fake(kwargs.get("device")) or any(
                isinstance(value, FakeTensor) for value in args
            )
            if drawn != getattr(generator, "fake", False):
                raise MixedDevicesError(f"{func}: generator and tensor are on different devices")
        return func(*args, **kwargs)


def _device_module() -> Any:
    class Module(backend_registration._DummyBackendModule):
        """What torch asks of ``torch.fakegpu``."""

        def synchronize(self, *_: Any) -> None: ...

        def current_device(self) -> int:
            return 0

        def device_count(self) -> int:
            return 1

        def is_available(self) -> bool:
            return True

        def manual_seed_all(self, seed: int) -> None: ...

        def manual_seed(self, seed: int) -> None: ...

        def _is_in_bad_fork(self) -> bool:
            return False

        def get_rng_state(self, *_: Any) -> Tensor:
            return torch.get_rng_state()

        def set_rng_state(self, state: Tensor, *_: Any) -> None: ...

    return Module()


def install() -> torch.device:
    """Make the accelerator, for the rest of the process, and return its device."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _device_module())
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.Generator = FakeGenerator  # type: ignore[misc]
    _Generators().__enter__()
    _Dispatch().__enter__()
    return torch.device(NAME, 0)

"""A digest of a function by what it does: its code, and the values that it closes over."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from modereg.errors import ConfigurationError
from modereg.policies.generative import GenerativePolicy

__all__ = ["code_digest"]

_LIBRARIES = tuple(
    {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
)
_INSTALLED = {"site-packages", "dist-packages"}  # also of an environment that a .pth file adds
_OURS = ("modereg", "modereg_integrations")
_MODULE_ATTRIBUTES = frozenset({*vars(nn.Module()), "_is_torch_compile"})


def code_digest(function: Callable[..., Any], module: nn.Module | None = None) -> str:
    """Digest a function (sha256, hexadecimal): equal in any process for equal code and values.

    Covered are bytecode and constants, defaults, closures, the globals that are read, bound objects
    and partial arguments, each by its value; what an installed library defines, by its name. Since
    bytecode is, the digest is of one version of Python.

    Args:
        function: any callable.
        module: a module whose weights are digested elsewhere: only its code counts.

    Raises:
        ConfigurationError: if it reads something that has no value to digest, such as a lock.
    """
    try:
        return _Digester(module).of(function).hex()
    except RecursionError:
        raise _refusal(function, "values nested too deeply") from None


def _refusal(value: object, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"expected a function whose code and values can be digested, got one that reads a "
        f"{type(value).__name__} ({reason}), so that adapters could not be tied to it; give "
        "as_generative_policy(..., name='my_policy', version='1') and change the version with it"
    )


def _is_library(name: str | None) -> bool:
    """Whether a module is installed, and not the user's own."""
    root = (name or "").partition(".")[0]
    if root in sys.stdlib_module_names or root in _OURS:
        return True
    file = getattr(sys.modules.get(root), "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    return not _INSTALLED.isdisjoint(path.parts) or any(map(path.is_relative_to, _LIBRARIES))


class _Digester:
    """Digests values recursively; one that is met again within itself counts by its depth."""

    def __init__(self, module: nn.Module | None) -> None:
        self.weightless = {id(part) for part in module.modules()} if module is not None else set()
        self.open: list[int] = []
        self.done: dict[int, tuple[bytes, Any]] = {}  # keeps the values, so that ids stay theirs

    def of(self, value: Any) -> bytes:
        """Return the digest of any value."""
        plain = _plain(value)
        if plain is not None:
            return _hash(type(value).__name__, plain)
        if id(value) in self.done:
            return self.done[id(value)][0]
        if id(value) in self.open:
            return _hash("again", str(self.open.index(id(value))))
        self.open.append(id(value))
        digest = _hash(*self._parts(value))
        self.open.pop()
        self.done[id(value)] = digest, value
        return digest

    def all(self, values: Iterable[Any]) -> bytes:
        """Return the digests of several values, one behind the other."""
        return b"".join(self.of(value) for value in values)

    def _parts(self, value: Any) -> tuple[str | bytes, ...]:
        if isinstance(value, Mapping) and not hasattr(value, "__dict__"):
            return "mapping", self.all(value.keys()), self.all(value.values())
        if type(value) in (list, tuple):
            return type(value).__name__, self.all(value)
        if type(value) in (set, frozenset):
            return "set", *sorted(self.of(item) for item in value)
        if isinstance(value, Tensor):
            return "tensor", str(value.dtype), str(tuple(value.shape)), _bytes(value)
        if isinstance(value, GenerativePolicy):
            return "policy", value.fingerprint()
        if isinstance(value, TensorDictBase):
            return "tensordict", self.of(value.to_dict())
        if isinstance(value, nn.Module):
            return "module", *self._module(value)
        return self._code(value)

    def _module(self, module: nn.Module) -> Iterable[bytes]:
        """Class, plain attributes and hooks of a module and its children, and its weights."""
        if hasattr(module, "_orig_mod"):  # torch.compile changes speed alone
            return self._module(module._orig_mod)  # type: ignore[arg-type]
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        weights = [] if id(module) in self.weightless else own
        attributes = {k: v for k, v in vars(module).items() if k not in _MODULE_ATTRIBUTES}
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        children = list(module.named_children())
        return map(self.of, (type(module), attributes, hooks, weights, children))

    def _code(self, value: Any) -> tuple[str | bytes, ...]:
        if isinstance(value, functools.partial):
            return "partial", self.of(value.func), self.of(value.args), self.of(value.keywords)
        if isinstance(value, MethodType):
            return "method", self.of(value.__func__), self.of(value.__self__)
        wrapped = getattr(value, "_torchdynamo_orig_callable", None)  # torch.compile
        if wrapped is not None:
            return "function", self.of(wrapped)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, CodeType):
            return self._bytecode(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, ModuleType):
            return "module", value.__name__, b"" if _is_library(value.__name__) else _source(value)
        if isinstance(value, BuiltinFunctionType):
            owner = value.__self__
            bound = b"" if owner is None or isinstance(owner, ModuleType) else self.of(owner)
            return "builtin", value.__qualname__, bound
        return self._reduced(value)

    def _function(self, function: FunctionType) -> tuple[str | bytes, ...]:
        cells = [_content(cell) for cell in function.__closure__ or ()]
        values = (function.__defaults__, function.__kwdefaults__, cells)
        home = function.__globals__.get("__name__")
        if _is_library(home):
            return "library", f"{home}.{function.__code__.co_qualname}", *map(self.of, values)
        read = {name: function.__globals__[name] for name in _globals(function)}
        return "function", *map(self.of, (function.__code__, *values, read))

    def _bytecode(self, code: CodeType) -> tuple[str | bytes, ...]:
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        table = getattr(code, "co_exceptiontable", b"")
        return "code", code.co_code, table, *map(self.of, (names, counts, code.co_consts))

    def _class(self, kind: type) -> tuple[str | bytes, ...]:
        if _is_library(kind.__module__) and "<locals>" not in kind.__qualname__:
            return "library", f"{kind.__module__}.{kind.__qualname__}"
        kept = {k: v for k, v in vars(kind).items() if k not in _CLASS_ATTRIBUTES}
        return "class", kind.__name__, self.all(kind.__bases__), self.of(kept)

    def _reduced(self, value: Any) -> tuple[str | bytes, ...]:
        """Digest any other object as pickle takes it apart."""
        if isinstance(value, property):
            return "property", self.of(value.fget), self.of(value.fset)
        for kind, name in _WRAPPERS.items():
            if isinstance(value, kind):
                return kind.__name__, self.of(getattr(value, name))
        try:
            parts = value.__reduce_ex__(4)
        except Exception as error:  # whatever an object's own __reduce__ raises
            raise _refusal(value, str(error) or type(error).__name__) from error
        if isinstance(parts, str):
            return "name", type(value).__qualname__, parts
        made, arguments, state, *items = (*parts, None, None, None)[:5]
        return "object", *map(self.of, (made, arguments, state, *map(_listed, items)))


_WRAPPERS: dict[type, str] = {
    staticmethod: "__func__",
    classmethod: "__func__",
    functools.cached_property: "func",
    functools._lru_cache_wrapper: "__wrapped__",
}
_CLASS_ATTRIBUTES = frozenset(
    {"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "_abc_impl"}
    | {"__firstlineno__", "__static_attributes__", "__abstractmethods__"}
    | {"__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"}
)
"""What a class has whatever it does."""


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # its variable was never set
        return None


def _listed(items: Any) -> Any:
    return None if items is None else list(items)


def _plain(value: Any) -> bytes | None:
    """Return the bytes of a plain value, None for any other."""
    if isinstance(value, bytes):
        return value
    if type(value) in (float, complex):
        return struct.pack("2d", complex(value).real, complex(value).imag)
    if value is None or value is Ellipsis or type(value) in (bool, int, str, range, slice):
        return repr(value).encode()
    if isinstance(value, torch.dtype | torch.device | torch.layout):
        return str(value).encode()
    return None


def _hash(*parts: str | bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def _bytes(value: Tensor) -> bytes:
    try:
        flat = value.detach().cpu().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().tobytes()
    except (RuntimeError, NotImplementedError) as error:  # sparse, quantised, meta
        raise _refusal(value, str(error)) from error


def _source(module: ModuleType) -> bytes:
    try:
        return inspect.getsource(module).encode()
    except (OSError, TypeError) as error:
        raise _refusal(module, f"{module.__name__} without a source") from error


def _globals(function: FunctionType) -> list[str]:
    """Return the globals that a function and the functions within it read, builtins left out."""
    pending, names = [function.__code__], set()
    while pending:
        code = pending.pop()
        names |= {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
        pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return sorted(names.intersection(function.__globals__))

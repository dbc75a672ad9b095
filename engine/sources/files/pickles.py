"""Pickles, read without running them: what they would hold and what they would call.

A pickle is a program for a stack machine. Here it runs on a machine that makes plain values only:
tensors become descriptions, and what would be called and is not known to be harmless becomes a
name. The few functions that a state dict needs are known; for all else the user is asked.
"""

import io
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

LARGEST = 1 << 24
"""Bytes of a pickle that are read."""

MOST_STEPS = 800_000
"""Operations of a pickle that are followed."""

_LONGEST_TEXT = 1 << 16

ITEM_SIZES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
    "uint16": 2, "uint32": 4, "uint64": 8, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
}  # fmt: skip
"""Bytes of an element of each type that is read, by torch's names."""

_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip

_ODD_TENSORS = {
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "empty (meta)",
    "torch.serialization._get_layout": "sparse",
    "torch.per_tensor_affine": "quantized",
    "torch.per_channel_affine": "quantized",
    "torch.QInt8Storage": "quantized",
    "torch.QUInt8Storage": "quantized",
    "torch.QInt32Storage": "quantized",
}


class BrokenPickle(Exception):
    """The bytes are no whole pickle; the text says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function that the pickle names."""

    name: str


@dataclass(frozen=True, slots=True)
class StoredStorage:
    """Numbers kept beside the pickle: ``count`` elements of ``dtype`` ("" for bare bytes)."""

    key: str
    dtype: str
    count: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * ITEM_SIZES.get(self.dtype, 1)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage; offset and strides in elements."""

    storage: StoredStorage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its elements."""
        return prod(self.shape) * ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is known only when the pickle runs, made by what is named."""

    name: str = ""


@dataclass
class PickleScan:
    """What a pickle is.

    Attributes:
        value: what it gives, of plain values, :class:`StoredTensor` and :class:`Unknown`.
        end: bytes it takes.
        runs: names of classes and functions that it would call and that are not known to be
            harmless, each once, in its order.
        unsafe: why torch's safe reader shall not read it, as a sentence; "" when it may.
        odd: kinds of tensors in it that are no plain numbers, such as ``quantized``.
        storages: all that it refers to, by key.
        whole: whether it was followed to its end.
    """

    value: Any = None
    end: int = 0
    runs: tuple[str, ...] = ()
    unsafe: str = ""
    odd: tuple[str, ...] = ()
    storages: dict[str, StoredStorage] = field(default_factory=dict)
    whole: bool = True


def scan_pickle(content: bytes) -> PickleScan:
    """Follow a pickle to its end without running it. Takes seconds at most, and bounded memory.

    Raises:
        BrokenPickle: it is cut short, or no pickle.
    """
    machine = _Machine()
    stream = io.BytesIO(content[:LARGEST])
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MOST_STEPS:
                machine.give_up("It has more operations than can be followed.")
                break
            machine.step(operation.name, argument)
    except (IndexError, KeyError) as error:
        raise BrokenPickle("its operations do not fit together") from error
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        if len(content) > LARGEST:
            machine.give_up("It is too large to be followed to its end.")
        elif any(one in str(error) for one in ("not enough", "before", "no newline", "expected")):
            raise BrokenPickle("it is cut short") from error
        else:
            raise BrokenPickle("it holds what no pickle has") from error
    machine.scan.end = stream.tell()
    machine.scan.runs = tuple(dict.fromkeys(machine.runs))
    machine.scan.odd = tuple(dict.fromkeys(machine.odd))
    return machine.scan


class _Machine:
    """The stack machine. Each operation is a method of its name, or a line of a table below."""

    def __init__(self) -> None:
        self.scan = PickleScan()
        self.runs: list[str] = []
        self.odd: list[str] = []
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do one operation.

        Raises:
            IndexError, KeyError: the stack or the memo has not what it takes.
        """
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            long = isinstance(argument, str | bytes) and len(argument) > _LONGEST_TEXT
            self._stack.append(Unknown("text") if long else argument)
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name in _NEWER:
            self._unsafe("It was saved by a newer pickle protocol than torch's safe reader reads.")
            _NEWER[name](self, argument)
        else:
            self._unsafe(f"Its operation {name} is none of a state dict's.")

    def give_up(self, why: str) -> None:
        """Say that what follows is not known."""
        self.scan.unsafe = why
        self.scan.whole = False

    def _unsafe(self, why: str) -> None:
        self.scan.unsafe = self.scan.unsafe or why

    def _pop_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _tuple(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError
        items = tuple(self._stack[-count:])
        self._stack[-count:] = [items]

    def _list(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    def _dict(self, _: Any) -> None:
        items = self._pop_mark()
        made: dict[Any, Any] = {}
        self._stack.append(made)
        self._set(made, items)

    def _append(self, _: Any) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Unknown):
            self._unsafe("It appends to what is no list.")

    def _set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set(self._stack[-1], [key, value])

    def _set_items(self, _: Any) -> None:
        items = self._pop_mark()
        self._set(self._stack[-1], items)

    def _set(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise IndexError
        if type(target) is not dict:
            if not isinstance(target, Unknown):
                self._unsafe("It sets items of what is no dictionary.")
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only these are hashed in no time: tuples of tuples take as long as one likes.
            if not isinstance(key, str | bytes | int | float | None):
                self._unsafe("A dictionary in it has other keys than texts and numbers.")
            else:
                target[key] = value

    def _put(self, index: Any) -> None:
        self._memo[int(index)] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: Any) -> None:
        self._stack.append(self._memo[int(index)])

    def _pop(self, _: Any) -> None:
        self._unsafe("Its operation POP is none of a state dict's.")
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _pop_marked(self, _: Any) -> None:
        self._unsafe("Its operation POP_MARK is none of a state dict's.")
        self._pop_mark()

    def _dup(self, _: Any) -> None:
        self._unsafe("Its operation DUP is none of a state dict's.")
        self._stack.append(self._stack[-1])

    def _stop(self, _: Any) -> None:
        self.scan.value = self._stack.pop()

    def _proto(self, version: int) -> None:
        if version != 2:
            self._unsafe(f"It was saved by pickle protocol {version}; torch's safe reader reads 2.")

    def _global(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[module, name]
        module = IMPORT_MAPPING.get(module, module)
        full = f"{module}.{name}"
        if full in _ODD_TENSORS:
            self.odd.append(_ODD_TENSORS[full])
        elif not _is_known(full):
            self.runs.append(full)
        self._stack.append(Named(full))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if isinstance(module, str) and isinstance(name, str):
            self._name(module, name)
        else:
            self._call_unknown("a name that is put together while it runs")

    def _call_unknown(self, name: str) -> None:
        self.runs.append(name)
        self._stack.append(Unknown(name))

    def _instance(self, names: str) -> None:
        self._pop_mark()
        self._call_unknown(names.replace(" ", ".", 1))

    def _object(self, _: Any) -> None:
        items = self._pop_mark()
        self._call_unknown(_name_of(items[0]))

    def _new(self, count: int) -> None:
        for _ in range(count):
            self._stack.pop()
        self._call_unknown(_name_of(self._stack.pop()))

    def _extension(self, code: Any) -> None:
        self._call_unknown(f"extension {code}")

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        harmless = type(target) is dict and isinstance(state, dict) and state.keys() <= _ATTRIBUTES
        if not harmless and not isinstance(target, Unknown):
            self._unsafe("It sets attributes of what it makes.")

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        name = _name_of(function)
        if name in _ODD_TENSORS or name in self.runs:
            self._stack.append(Unknown(name))
            return
        try:
            if not isinstance(arguments, tuple):
                raise TypeError
            self._stack.append(_KNOWN_CALLS[name](*arguments))
        except (KeyError, TypeError, ValueError, ArithmeticError):
            self._unsafe(f"It calls {name} in a way no state dict does.")
            self._stack.append(Unknown(name))

    def _persistent(self, _: Any) -> None:
        reference = self._stack.pop()
        storage = _storage_of(reference)
        if storage is None and _is_odd_storage(reference):
            self._stack.append(Unknown("a storage"))
            return
        if storage is None:
            self._unsafe("It refers to something kept elsewhere that is no tensor's storage.")
            self._stack.append(_class_of(reference))
            return
        if self.scan.storages.setdefault(storage.key, storage) != storage:
            self._unsafe("It refers to one storage in two ways.")
        self._stack.append(storage)

    def _named_persistent(self, _: Any) -> None:
        self._unsafe("It refers to something kept elsewhere that is no tensor's storage.")
        self._stack.append(Unknown("a persistent id"))

    def _frozen_set(self, _: Any) -> None:
        self._pop_mark()
        self._stack.append(Unknown("frozenset"))

    def _add_items(self, _: Any) -> None:
        self._pop_mark()


_Step = Callable[[_Machine, Any], None]

_ATTRIBUTES = frozenset({"_metadata"})

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": Unknown,
}  # fmt: skip

_LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"}
)

_STEPS: dict[str, _Step] = {
    "MARK": _Machine._mark, "TUPLE": _Machine._tuple, "LIST": _Machine._list,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "APPEND": _Machine._append, "APPENDS": _Machine._appends, "DICT": _Machine._dict,
    "SETITEM": _Machine._set_item, "SETITEMS": _Machine._set_items,
    "PUT": _Machine._put, "BINPUT": _Machine._put, "LONG_BINPUT": _Machine._put,
    "GET": _Machine._get, "BINGET": _Machine._get, "LONG_BINGET": _Machine._get,
    "POP": _Machine._pop, "POP_MARK": _Machine._pop_marked, "DUP": _Machine._dup,
    "PROTO": _Machine._proto, "STOP": _Machine._stop,
    "GLOBAL": _Machine._global, "INST": _Machine._instance, "OBJ": _Machine._object,
    "NEWOBJ": lambda machine, _: machine._new(1),
    "EXT1": _Machine._extension, "EXT2": _Machine._extension, "EXT4": _Machine._extension,
    "BUILD": _Machine._build, "REDUCE": _Machine._reduce,
    "BINPERSID": _Machine._persistent, "PERSID": _Machine._named_persistent,
}  # fmt: skip

# Older or newer than protocol 2, which torch's safe reader is limited to.
_NEWER: dict[str, _Step] = {
    "STACK_GLOBAL": _Machine._stack_global, "MEMOIZE": _Machine._memoize,
    "FROZENSET": _Machine._frozen_set, "ADDITEMS": _Machine._add_items,
    "NEWOBJ_EX": lambda machine, _: machine._new(2), "FRAME": lambda machine, _: None,
    "NEXT_BUFFER": _Machine._named_persistent, "READONLY_BUFFER": lambda machine, _: None,
    **{
        name: lambda machine, argument: machine._stack.append(
            Unknown("text")
            if isinstance(argument, str | bytes) and len(argument) > _LONGEST_TEXT
            else argument
        )
        for name in (
            "INT", "LONG", "LONG4", "STRING", "BINSTRING", "BINBYTES", "SHORT_BINBYTES",
            "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "FLOAT",
        )
    },
}  # fmt: skip


def _name_of(function: Any) -> str:
    return str(function.name) if isinstance(function, Named | Unknown) else "something it made"


def _is_known(name: str) -> bool:
    module, _, last = name.rpartition(".")
    return name in _KNOWN_CALLS or (module == "torch" and (last in _STORAGES or last in ITEM_SIZES))


def _storage_of(reference: Any) -> StoredStorage | None:
    """The storage that a persistent id stands for; None if it is another kind of id.

    ``("storage", class, key, device, elements)``, and a view's place before 1.6, always None now.
    """
    if not isinstance(reference, tuple) or len(reference) not in (5, 6):
        return None
    sign, kind, key, _, count = reference[:5]
    if sign not in ("storage", b"storage") or not isinstance(kind, Named):
        return None
    if reference[5:] not in ((), (None,)):
        return None
    if type(count) is not int or count < 0 or not isinstance(key, str):
        return None
    if kind.name == "torch.storage.UntypedStorage":
        return StoredStorage(key, "", count)
    dtype = _STORAGES.get(kind.name.removeprefix("torch."))
    return None if dtype is None else StoredStorage(key, dtype, count)


def _class_of(reference: Any) -> Any:
    """The class that a module's persistent id stands for, which keeps its source beside it."""
    if isinstance(reference, tuple) and len(reference) > 1 and isinstance(reference[1], Named):
        return reference[1]
    return Unknown("what is kept elsewhere")


def _is_odd_storage(reference: Any) -> bool:
    return isinstance(reference, tuple) and any(
        isinstance(one, Named) and one.name in _ODD_TENSORS for one in reference
    )


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any = False, hooks: Any = None,
    dtype: Any = None, metadata: Any = None,
) -> StoredTensor:  # fmt: skip
    if not isinstance(storage, StoredStorage) or metadata:
        raise TypeError
    sides = _sizes((offset,)), _sizes(shape), _sizes(strides)
    name = dtype.name.removeprefix("torch.") if isinstance(dtype, Named) else storage.dtype
    if name not in ITEM_SIZES or len(sides[1]) != len(sides[2]) or len(sides[1]) > 64:
        raise TypeError
    return StoredTensor(storage, name, sides[0][0], sides[1], sides[2])


def _sizes(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, tuple):
        raise TypeError
    if any(type(one) is not int or not 0 <= one < 1 << 62 for one in numbers):
        raise ValueError
    return numbers


def _parameter(data: Any, grad: Any, hooks: Any, state: Any = None) -> Any:
    if not isinstance(data, StoredTensor) or state:
        raise TypeError
    return data


def _ordered(items: Any = ()) -> dict[Any, Any]:
    if len(items):
        raise TypeError  # Python 3 makes it empty and sets its items
    return {}


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise TypeError
    return text.encode(encoding)


def _plain(*arguments: Any) -> Unknown:
    """The result of something that takes texts and numbers and matters to no tensor."""
    if any(not isinstance(one, str | int | float | None) for one in arguments):
        raise TypeError
    return Unknown("a setting")


_KNOWN_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _sizes,
    "torch.device": _plain,
    "builtins.complex": _plain,
    "_codecs.encode": _encoded,
    "torch.storage.UntypedStorage": lambda *_: _plain(()),
}

"""Reads the pickles inside PyTorch's weight files without executing anything.

A pickle is a program. Python's own unpickler imports what the program names, calls it, and allocates what it requests.
This module runs the program on its own virtual machine instead. The machine builds dicts, lists, tuples, strings and
numbers. It imports nothing and knows only the globals that describe tensors. For each tensor, it records where the
values are stored; the caller must check that they really are there.
"""

import dataclasses
import pickletools
import warnings
from typing import Any, BinaryIO, cast

# The pickle of a model with 10,000 tensors takes 2 MB.
LONGEST = 16 * 2**20

_STORAGES = {
    "torch DoubleStorage": "float64",
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}
_DICT = "collections OrderedDict"
_TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER = "torch._utils _rebuild_parameter"
# Also harmless, but these tensors are not usable here: PyTorch's own quantized types, and float8.
_QUANTIZED = ("torch._utils _rebuild_qtensor", "torch._utils _rebuild_tensor_v3")

_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(ValueError):
    """The pickle names a global that is not one of PyTorch's tensor functions."""


class Quantized(ValueError):
    """The pickle contains tensors of a quantized type."""


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
    """A global that a pickle names, by module and name; never the object itself."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """A sequence of `size` numbers that a pickle refers to by `key`."""

    dtype: str
    key: str
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """A tensor: the numbers of a storage from `offset` on, in `shape`. Offset and strides are counted in numbers.

    All are ints >= 0, and the last number that the view reaches is within the storage's `size`.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def extent(self) -> int:
        """Returns the count of numbers from the first to the last one of the view, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


def load(stream: BinaryIO) -> Any:
    """Reads one pickle and leaves the stream positioned directly after it.

    Args:
        stream: a binary file. At most `LONGEST` bytes of it are read.

    Returns:
        The object that the pickle describes: dicts, lists, tuples, strings, numbers, `None`, and `View`s for tensors.

    Raises:
        Refused: if the pickle names any other global.
        Quantized: if the pickle contains tensors of a quantized type.
        ValueError: if the pickle is broken, or uses operations that a weight file does not need.
    """
    machine = _Machine()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about escapes in damaged strings
        for opcode, argument, _ in pickletools.genops(cast(BinaryIO, _Bounded(stream))):
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, argument)
    return machine.pop()


class _Bounded:
    """A stream that raises after `LONGEST` bytes."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._left = LONGEST

    def read(self, size: int) -> bytes:
        """Reads `size` bytes, or raises if they exceed the limit."""
        if size > self._left:
            raise ValueError(f"its pickle is longer than {LONGEST} bytes")
        self._left -= size
        return self._stream.read(size)

    def readline(self) -> bytes:
        """Reads a line, truncated at the limit."""
        line = self._stream.readline(self._left)
        self._left -= len(line)
        return line


class _Machine:
    """The stack and the memo of a pickle, and the effect of each opcode on them."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Pops the top of the stack; raises if there is no value above the mark."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("its pickle pops more from the stack than it pushes")
        return self._stack.pop()

    def step(self, name: str, argument: Any) -> None:
        """Runs one opcode."""
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _SHORT_TUPLES:
            self._stack.append(tuple([self.pop() for _ in range(_SHORT_TUPLES[name])][::-1]))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            if argument not in self._memo:
                raise ValueError("its pickle reads a memo entry that it has not written")
            self._stack.append(self._memo[argument])
        else:
            step = _STEPS.get(name)
            if step is None:
                raise ValueError(f"its pickle uses {name}, which a weight file does not need")
            step(self, argument)

    def _top(self) -> Any:
        top = self.pop()
        self._stack.append(top)
        return top

    def _below(self, kind: type) -> Any:
        """Returns the top of the stack, a container that the pickle is filling."""
        top = self._top()
        if type(top) is not kind:
            raise ValueError(f"its pickle fills a {type(top).__name__} as if it were a {kind.__name__}")
        return top

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("its pickle has no mark where it needs one")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._since_mark()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._since_mark())

    def _dict(self, _: Any) -> None:
        self._stack.append(_pairs_to_dict(_in_pairs(self._since_mark())))

    def _append(self, _: Any) -> None:
        item = self.pop()
        self._below(list).append(item)

    def _appends(self, _: Any) -> None:
        items = self._since_mark()
        self._below(list).extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._below(dict).update(_pairs_to_dict([(key, value)]))

    def _set_items(self, _: Any) -> None:
        items = self._since_mark()
        self._below(dict).update(_pairs_to_dict(_in_pairs(items)))

    def _global(self, argument: str) -> None:
        self._stack.append(_known(argument))

    def _instance(self, argument: str) -> None:
        _known(argument)
        raise ValueError("its pickle creates an instance in a way that PyTorch does not")

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("its pickle names a global by something other than strings")
        self._stack.append(_known(f"{module} {name}"))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not Global or type(arguments) is not tuple:
            raise ValueError("its pickle calls what is not a function")
        self._stack.append(_rebuild(function.name, arguments))

    def _build(self, _: Any) -> None:
        # PyTorch stores version numbers in an attribute of the dict of tensors. They are not needed here.
        self.pop()
        self._below(dict)

    def _persistent(self, _: Any) -> None:
        self._stack.append(_storage(self.pop()))

    def _nothing(self, _: Any) -> None:
        pass


_STEPS = {
    "PROTO": _Machine._nothing,
    "FRAME": _Machine._nothing,
    "MARK": _Machine._mark,
    "TUPLE": _Machine._tuple,
    "LIST": _Machine._list,
    "DICT": _Machine._dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "INST": _Machine._instance,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}


def _in_pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("its pickle has a key without a value")
    return list(zip(items[::2], items[1::2], strict=True))


def _pairs_to_dict(pairs: Any) -> dict[str, Any]:
    """Creates a dict with string keys only: hashing a nested tuple can take forever or overflow the C stack."""
    result = {}
    for pair in pairs:
        if type(pair) not in (tuple, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError("its pickle has a dict with keys that are not strings")
        result[pair[0]] = pair[1]
    return result


def _known(name: str) -> Global:
    if name in _QUANTIZED:
        raise Quantized(name)
    if name in _STORAGES or name in _TENSORS or name in (_DICT, _PARAMETER):
        return Global(name)
    raise Refused(name.replace(" ", "."))


def _rebuild(name: str, arguments: tuple[Any, ...]) -> Any:
    """Does what calling the global `name` would do."""
    if name == _DICT and not arguments:
        return {}
    if name == _DICT and len(arguments) == 1 and type(arguments[0]) is list:
        return _pairs_to_dict(arguments[0])  # as written by Python 2
    if name == _PARAMETER and arguments and type(arguments[0]) is View:
        return arguments[0]
    if name in _TENSORS and len(arguments) >= 4:
        return _view(*arguments[:4])
    raise ValueError(f"its pickle calls {name.replace(' ', '.')} with other arguments than PyTorch does")


def _storage(identity: Any) -> Storage:
    """Creates a storage from its persistent id: "storage", type, key, device, size; in old files also a view."""
    if type(identity) is not tuple or len(identity) not in (5, 6):
        raise ValueError("its pickle refers to a storage in an unknown form")
    word, kind, key, _, size, *view = identity
    if type(word) is not str or word != "storage" or type(key) is not str or view not in ([], [None]):
        raise ValueError("its pickle refers to a storage in an unknown form")
    if type(kind) is not Global or kind.name not in _STORAGES or not _is_size(size):
        raise ValueError("its pickle refers to a storage of an unknown type or size")
    return Storage(_STORAGES[kind.name], key, size)


def _view(storage: Any, offset: Any, shape: Any, strides: Any) -> View:
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise ValueError("its pickle describes a tensor in an unknown form")
    if len(shape) != len(strides) or len(shape) > 64 or not all(map(_is_size, (offset, *shape, *strides))):
        raise ValueError("its pickle describes a tensor with a shape, strides or an offset that cannot be")
    view = View(storage, offset, shape, strides)
    extent = view.extent()
    if extent and offset + extent > storage.size:
        raise ValueError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} reaches beyond its storage of "
            f"{storage.size} numbers"
        )
    return view


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63

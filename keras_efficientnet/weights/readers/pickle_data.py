"""Pickles as plain data: nothing in them is imported, called or run.

A pickle is a program that builds objects. Here its instructions are followed one by one, and a
class or function is only ever its name. The caller says which names it knows.
"""

import pickletools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

# The pickle of a checkpoint of L2 with averages and an optimizer's state takes a fifth of it.
MAX_BYTES = 2**24

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,  # a list needs no hashes, which a file could make expensive
    "EMPTY_DICT": dict,
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


class PickleError(ValueError):
    """The pickle is damaged, or does what no writer of data does."""


@dataclass(frozen=True)
class Name:
    """A class, function or constant, by its name alone, such as `"torch.float32"`."""

    name: str


@dataclass
class Object:
    """What calling a name would have made.

    Attributes:
        name: of what would have been called.
        arguments: that it would have been called with.
        state: that the object would have been given then.
    """

    name: str
    arguments: Any
    state: Any = None


class Unpickler:
    """Follows a pickle's instructions and builds lists, dicts, tuples, numbers and `Object`s.

    Sets become lists. Dictionaries keep only entries whose key is a text or a number.

    Args:
        file: to read from; one pickle may follow another.
        data: names that are known to be data.
        calls: what stands in for functions: it gets their arguments.
        load: what stands in for an object that is kept outside of the pickle, by its identifier.

    Attributes:
        unknown: the first name that is neither in `data` nor in `calls`; None if there is none.
    """

    def __init__(
        self,
        file: BinaryIO | Any,
        data: Collection[str] = (),
        calls: Mapping[str, Callable[..., Any]] | None = None,
        load: Callable[[Any], Any] | None = None,
    ):
        self.unknown: str | None = None
        self._file, self._left = file, MAX_BYTES
        self._data, self._calls, self._load = data, calls or {}, load
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Reads one pickle, up to its end."""
        for opcode, argument, _ in pickletools.genops(self):  # pyright: ignore[reportArgumentType]
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _LITERALS:
                self._stack.append(argument)
            elif not (
                self._move(name, argument) or self._collect(name) or self._make(name, argument)
            ):
                raise PickleError(f"instruction {name} in a pickle")
        raise PickleError("a pickle without an end")

    def read(self, count: int) -> bytes:
        """Reads for `genops`, within the limit whatever length the file claims."""
        self._spend(count)
        return self._file.read(count)

    def readline(self) -> bytes:
        """Reads for `genops`, within the limit."""
        line = self._file.readline(self._left + 1)
        self._spend(len(line))
        return line

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise PickleError(f"a pickle of more than {MAX_BYTES >> 20} MiB")

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _move(self, opcode: str, argument: Any) -> bool:
        """Instructions that move values between stack and memory."""
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marks.append(len(self._stack))
            case "POP" if self._marks and self._marks[-1] == len(self._stack):
                self._marks.pop()
            case "POP":
                self._stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                self._stack.append(self._stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case _:
                return False
        return True

    def _collect(self, opcode: str) -> bool:
        """Instructions that make or fill collections."""
        match opcode:
            case "TUPLE":
                self._stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                self._stack[-count:] = [tuple(self._stack[-count:])]
            case "LIST" | "FROZENSET":
                self._stack.append(self._since_mark())
            case "DICT":
                values = self._since_mark()
                self._stack.append({})
                self._fill(values)
            case "APPEND":
                self._extend([self._stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._since_mark())
            case "SETITEM":
                value, key = self._stack.pop(), self._stack.pop()
                self._fill([key, value])
            case "SETITEMS":
                self._fill(self._since_mark())
            case _:
                return False
        return True

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(values)

    def _fill(self, values: list[Any]) -> None:
        if isinstance(self._stack[-1], dict):
            pairs = zip(values[::2], values[1::2], strict=True)
            self._stack[-1].update((k, v) for k, v in pairs if isinstance(k, str | int))

    def _make(self, opcode: str, argument: Any) -> bool:
        """Instructions that would import or call something."""
        match opcode:
            case "GLOBAL":
                self._stack.append(self._named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = self._stack.pop(), self._stack.pop()
                self._stack.append(self._named(module, name))
            case "REDUCE" | "NEWOBJ":
                arguments, function = self._stack.pop(), self._stack.pop()
                self._stack.append(self.call(function, arguments))
            case "NEWOBJ_EX":
                _, arguments, function = (self._stack.pop() for _ in range(3))
                self._stack.append(self.call(function, arguments))
            case "OBJ":
                function, *arguments = self._since_mark()
                self._stack.append(self.call(function, tuple(arguments)))
            case "INST":
                function = self._named(*argument.split(" ", 1))
                self._stack.append(self.call(function, tuple(self._since_mark())))
            case "BUILD":
                state = self._stack.pop()
                if isinstance(self._stack[-1], Object):
                    self._stack[-1].state = state
            case "BINPERSID" if self._load:
                self._stack.append(self._load(self._stack.pop()))
            case _:
                return False
        return True

    def _named(self, module: Any, name: Any) -> Name:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if self.unknown is None and full not in self._data and full not in self._calls:
            self.unknown = full
        return Name(full)

    def call(self, function: Any, arguments: Any) -> Any:
        """Returns what stands in for a call."""
        name = function.name if isinstance(function, Name) else "object"
        if not isinstance(arguments, tuple):
            raise PickleError(f"arguments of {name} that are no tuple")
        call = self._calls.get(name)
        return call(*arguments) if call else Object(name, arguments)

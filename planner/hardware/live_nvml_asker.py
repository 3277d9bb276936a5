"""One NVML call at a time: made, told before and after, and its refusal turned into one error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TextIO

import pynvml

SYSTEM = "system"
# nvmlReturn_t, by number: a binding may lack a name that the driver's library has
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
NO_ANSWER = -1  # ours: no answer, or one that cannot be read


Value = Any  # plain data that JSON can carry


class RefusedError(Exception):
    """NVML answered a call with a status other than success."""

    def __init__(self, function: str, status: int, reason: str) -> None:
        super().__init__(reason)
        self.function = function
        self.status = status
        self.reason = reason


def text(value: str | bytes) -> str:
    """Text of NVML; old releases of the binding give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


class Asker:
    """Asks calls, and tells what comes of them. `skipped` calls hung before and are not made."""

    def __init__(self, out: TextIO, skipped: frozenset[str]) -> None:
        self.out = out
        self.skipped = skipped
        self.programs: set[int] = set()

    def tell(self, *line: Value) -> None:
        self.out.write(json.dumps(line) + "\n")
        self.out.flush()

    def call(self, device: str, function: str, *arguments: Any) -> Any:
        """The answer of one NVML call, or RefusedError."""
        return self.ask(device, function, lambda: getattr(pynvml, function)(*arguments))

    def ask(self, device: str, function: str, do: Callable[[], Any]) -> Any:
        """The same for a call that is made by `do`."""
        if function in self.skipped:
            raise RefusedError(function, NO_ANSWER, "gave no answer before")
        self.tell("asking", device, function)
        try:
            return do()
        except pynvml.NVMLError as error:
            refused = RefusedError(function, int(error.value), str(error))
        except (pynvml.NVMLLibraryMismatchError, AttributeError):
            # The driver's library or this release of the binding does not have the function.
            refused = RefusedError(function, FUNCTION_NOT_FOUND, "not in this driver's library")
        except ValueError as error:  # text that is not UTF-8
            refused = RefusedError(function, NO_ANSWER, f"an answer that cannot be read ({error})")
        self.tell("refused", device, function, refused.status, refused.reason)
        raise refused

    def fact(self, device: str, name: str, value: Value) -> None:
        self.tell("fact", device, name, value)

    def try_fact(
        self,
        device: str,
        name: str,
        function: str,
        *arguments: Any,
        plain: Callable[[Any], Value] = int,
    ) -> Value:
        """Ask one fact and tell it; None where it is refused, which costs no other fact."""
        try:
            value = plain(self.call(device, function, *arguments))
        except RefusedError as refused:
            if refused.status == GPU_IS_LOST and device != SYSTEM:
                raise  # every later call to it would answer the same
            return None
        self.fact(device, name, value)
        return value

    def first(self, device: str, *ways: tuple[str, Callable[[], Any]]) -> Any:
        """The answer of the first of several ways to ask, newest first; else the last refusal."""
        for function, do in ways[:-1]:
            try:
                return self.ask(device, function, do)
            except RefusedError as refused:
                if refused.status == GPU_IS_LOST:
                    raise
        return self.ask(device, *ways[-1])

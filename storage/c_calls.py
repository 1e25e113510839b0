"""Calling C functions from compiled code, by their addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def caller(count: int) -> Callable[..., Any]:
    """Return a function for compiled code that calls a C function at an address, all words being size_t."""

    @intrinsic
    def call(typing_context: Any, address: Any, words: Any) -> Any:
        del typing_context, address, words

        def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
            word = context.get_value_type(types.uintp)
            function = ir.FunctionType(word, [word] * count).as_pointer()
            arguments = [builder.extract_value(values[1], at) for at in range(count)]
            return builder.call(builder.inttoptr(values[0], function), arguments)

        several = types.UniTuple(types.uintp, count)  # type: ignore[no-untyped-call]
        return types.uintp(types.uintp, several), generate

    return call


def address_of(function: object) -> int:
    """Return the address of a function of a library that ctypes loaded.

    Raises:
        AttributeError: it has none.
    """
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    if address is None:
        raise AttributeError("a function of a library has no address")
    return address

"""Python's source, read by tests about the package's own text."""

import ast
import gc


def parse(source: str) -> ast.Module:
    """A module's syntax tree, whatever other threads do.

    CPython 3.11 counts the depth of all trees that are being made in one place. Where
    the garbage collector lets a thread run that makes one too, such as for the
    carets of a traceback, it ends in "AST constructor recursion depth mismatch".
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if enabled:
            gc.enable()

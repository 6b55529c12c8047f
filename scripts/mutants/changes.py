"""What could be wrong in a statement: each rule gives the faults of its kind."""

from __future__ import annotations

import ast
import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .source import parse_statement, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .source import FunctionNode

BOUNDARY: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
ORDERED = (ast.Sub, ast.Div, ast.FloorDiv, ast.MatMult, ast.Pow)
OTHER_NAME = {
    "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "floor": "ceil", "ceil": "floor",
    "nanmin": "nanmax", "nanmax": "nanmin", "argmin": "argmax", "argmax": "argmin",
}  # fmt: skip
EITHER_NAME = {"any": "all", "all": "any", "intersection": "union", "union": "intersection"}
LIBRARY_KEYWORDS = {
    "axis", "keepdims", "key", "reverse", "default", "ddof", "side", "endpoint", "return_inverse", "assume_unique",
    "dim", "descending", "maintain_order", "missing_ok", "parents", "sort_keys", "initial", "where", "how", "on", "sep",
    "maxsplit", "minlength", "unbiased", "keepdim", "start", "step", "weights_only", "rcond", "method", "nulls_last",
    "out_dtype", "n_rows", "rowvar", "kind", "casting", "right", "left", "posinf", "neginf", "nan",
}  # fmt: skip
PATH_WORDS = re.compile(
    r"folder|files?|path|root|cache|home|place|parent|dir|where|runs?$|work|store|out$", re.IGNORECASE
)
SHOWS = {
    "print", "warn", "info", "warning", "debug", "error", "exception", "track", "track_bytes", "live_line", "echo",
    "say", "advance", "add_task", "status", "stage", "Console", "Column", "Padding", "add_column",
}  # fmt: skip
LARGE = 1000
"""Whole numbers from here on are sizes of buffers and the like: one more or less is never seen."""
NUMBERS = re.compile(
    r"(int|float|Float|Floats|Int|Doubles|Array|Tensor|torch\.Tensor|NDArray\[np\.(float|int)\w+\])", re.ASCII
)
EMPTY = {"list": "[]", "tuple": "()", "dict": "{}", "frozenset": "frozenset()", "set": "set()", "Sequence": "()"}


@dataclass(frozen=True)
class Change:
    """A fault in a statement: what kind, and the statement's text with it."""

    kind: str
    after: str


def changes_of(
    statement: ast.stmt, function: FunctionNode, has_default: Callable[[str, str], bool]
) -> Iterator[Change]:
    """Yield every fault that can be planted in a statement.

    Args:
        statement: A statement of the function; of a compound one the first line is changed.
        function: The function; a changed return value depends on what it says it returns.
        has_default: Whether the callable of a name has a default for the parameter of a name.
    """
    if not is_visible(statement):
        return
    before = text_of(statement)
    assert before is not None
    for kind, changed in (
        *_whole_statement(statement, function),
        *_first_line(statement),
        *_expressions(statement, before, has_default),
    ):
        if changed == "pass" or text_of(parse_statement(changed)) not in (None, before):
            yield Change(kind, changed)


def is_visible(statement: ast.stmt) -> bool:
    """Return whether a change in the statement could be seen, other than on a screen or in a log."""
    if text_of(statement) is None:
        return False
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call) and not _shows(statement.value)
    return True


def _shows(call: ast.Call) -> bool:
    name = called_name(call)
    rich_table = name == "Table" and any(keyword.arg in ("box", "padding") for keyword in call.keywords)
    return (
        name in SHOWS
        or rich_table
        or ast.unparse(call.func).startswith(("LOG.", "log.", "console.", "sys.std", "warnings."))
    )


def called_name(call: ast.Call) -> str:
    """Return the last part of what is called; empty where that is no name."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _whole_statement(statement: ast.stmt, function: FunctionNode) -> Iterator[tuple[str, str]]:
    if isinstance(statement, ast.Expr | ast.Raise) and (statement is not function.body[-1] or len(function.body) > 1):
        yield "removed", "pass"
    if isinstance(statement, ast.AugAssign):
        yield "removed", "pass"
        if type(statement.op) in ARITHMETIC and _is_number(statement.value):
            changed = copy.deepcopy(statement)
            changed.op = ARITHMETIC[type(statement.op)]()
            yield "arithmetic", ast.unparse(changed)
    if isinstance(statement, ast.Return) and statement.value is not None and function.returns is not None:
        value = _other_value(statement.value, ast.unparse(function.returns))
        if value is not None:
            yield "returned", f"return {value}"


def _other_value(value: ast.expr, annotation: str) -> str | None:
    text = ast.unparse(value)
    if text == "None":
        return None
    if annotation == "bool":
        return None if isinstance(value, ast.Compare | ast.BoolOp) else f"not ({text})"
    if annotation.endswith("| None") and not isinstance(value, ast.Constant):
        return "None"
    if isinstance(value, ast.Tuple) and len(value.elts) == 2:
        return ast.unparse(ast.Tuple(value.elts[::-1], ast.Load()))
    if NUMBERS.fullmatch(annotation):
        return f"({text}) + 1"
    return EMPTY.get(annotation.split("[", 1)[0])


def _first_line(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(statement, ast.If | ast.While) and not _has_opposite(statement.test):
        word = "if" if isinstance(statement, ast.If) else "while"
        yield "negated", f"{word} not ({ast.unparse(statement.test)}):"


def _has_opposite(test: ast.expr) -> bool:
    plain = isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in OPPOSITE
    return plain or (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not))


def _expressions(
    statement: ast.stmt, before: str, has_default: Callable[[str, str], bool]
) -> Iterator[tuple[str, str]]:
    if isinstance(statement, ast.Raise):
        return
    pattern = parse_statement(before)
    nodes = list(ast.walk(pattern))
    visible = set(_visible_nodes(pattern))
    for number, node in enumerate(nodes):
        if node not in visible or not isinstance(node, ast.expr):
            continue
        for kind, rule in RULES.items():
            for n_th, _ in enumerate(rule(node, has_default)):
                changed = copy.deepcopy(pattern)
                target = list(ast.walk(changed))[number]
                assert isinstance(target, ast.expr)
                new = list(rule(target, has_default))[n_th]
                swapped: ast.stmt = _Swap(target, new).visit(changed)
                yield kind, str(text_of(swapped))


class _Swap(ast.NodeTransformer):
    def __init__(self, old: ast.expr, new: ast.expr) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> Any:  # noqa: ANN401
        return self._new if node is self._old else self.generic_visit(node)


def _visible_nodes(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and (_shows(node) or _makes_a_message(node))):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "target", "targets", "body") and isinstance(node, ast.stmt):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _visible_nodes(child)


def _makes_a_message(call: ast.Call) -> bool:
    return called_name(call).endswith(("Error", "Warning"))


def _boundary(node: ast.expr, _: object) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare):
        for number, operator in enumerate(node.ops):
            if type(operator) in BOUNDARY:
                yield _with_operator(node, number, BOUNDARY[type(operator)]())


def _negated(node: ast.expr, _: object) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPPOSITE:
        yield _with_operator(node, 0, OPPOSITE[type(node.ops[0])]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.IfExp) and not _has_opposite(node.test):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)


def _with_operator(node: ast.Compare, number: int, operator: ast.cmpop) -> ast.Compare:
    return ast.Compare(node.left, [*node.ops[:number], operator, *node.ops[number + 1 :]], node.comparators)


def _arithmetic(node: ast.expr, _: object) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and not _is_text(node) and not _is_path(node):
        if type(node.op) in ARITHMETIC:
            yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
        elif isinstance(node.op, ast.FloorDiv):  # rounded up
            minus = ast.UnaryOp(ast.USub(), node.left)
            yield ast.UnaryOp(ast.USub(), ast.BinOp(minus, ast.FloorDiv(), node.right))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield node.operand
    elif isinstance(node, ast.Call):
        yield from _other_function(node, OTHER_NAME)


def _swapped(node: ast.expr, _: object) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ORDERED) and not _is_text(node) and not _is_path(node):
        yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.Call) and called_name(node) == "where" and len(node.args) == 3:
        condition, yes, no = node.args
        yield ast.Call(node.func, [condition, no, yes], node.keywords)


def _constant(node: ast.expr, _: object) -> Iterator[ast.expr]:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = node.value
        if isinstance(value, int) and value < LARGE:
            yield ast.Constant(value + 1)
            if value > 1:
                yield ast.Constant(value - 1)
        elif isinstance(value, float):
            yield ast.Constant(1.0 if value == 0 else value * (1000 if abs(value) < 1e-3 else 1.25))


def _keyword(node: ast.expr, has_default: Callable[[str, str], bool]) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call):
        for number, keyword in enumerate(node.keywords):
            name = keyword.arg
            if name is not None and (name in LIBRARY_KEYWORDS or has_default(called_name(node), name)):
                yield ast.Call(node.func, node.args, [*node.keywords[:number], *node.keywords[number + 1 :]])


def _and_or(node: ast.expr, _: object) -> Iterator[ast.expr]:
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
        if not any(isinstance(side, ast.Dict | ast.DictComp) for side in (node.left, node.right)):
            yield ast.BinOp(node.left, ast.BitOr() if isinstance(node.op, ast.BitAnd) else ast.BitAnd(), node.right)
    elif isinstance(node, ast.Call):
        yield from _other_function(node, EITHER_NAME)


def _other_function(node: ast.Call, names: dict[str, str]) -> Iterator[ast.expr]:
    other = names.get(called_name(node))
    if other is not None and isinstance(node.func, ast.Name):
        yield ast.Call(ast.Name(other, ast.Load()), node.args, node.keywords)
    elif other is not None and isinstance(node.func, ast.Attribute):
        yield ast.Call(ast.Attribute(node.func.value, other, ast.Load()), node.args, node.keywords)


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) or _is_text(node.orelse)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | bytes)
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp)


def _is_number(node: ast.expr) -> bool:
    """Return whether a value looks like a number or an array, rather than like a list."""
    if isinstance(node, ast.Call):
        return called_name(node) in {"len", "int", "float", "sum"} or ast.unparse(node.func).startswith("np.")
    return not _is_text(node)


def _is_path(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.Div) and any(
        PATH_WORDS.search(ast.unparse(side)) for side in (node.left, node.right)
    )


RULES: dict[str, Callable[[ast.expr, Callable[[str, str], bool]], Iterator[ast.expr]]] = {
    "boundary": _boundary, "negated": _negated, "arithmetic": _arithmetic, "swapped": _swapped, "constant": _constant,
    "keyword": _keyword, "and_or": _and_or,
}  # fmt: skip
KINDS = (*RULES, "returned", "removed")

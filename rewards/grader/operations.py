"""How values are put together, and what is in them."""

from __future__ import annotations

from rewards.grader.values import CONSTANTS, MINUS_ONE, Expression, Number, Op, Struct, Symbol, Unreadable, Value


def expression(value: Value) -> Expression:
    """The value itself, if it can stand in an expression.

    Raises:
        Unreadable: if it can't.
    """
    if isinstance(value, Struct):
        raise Unreadable(f"a {value.kind} where a number or expression should be")
    return value


def op(name: str, *args: Value) -> Expression | Struct:
    """The operation on these values: expressions, or with matrices and vectors among them."""
    if name in ("+", "*", "^") and any(map(is_matrix, args)):
        return Struct("arithmetic", tuple(arg if is_matrix(arg) else expression(arg) for arg in args), name)
    return Op(name, tuple(map(expression, args)))


def is_matrix(value: Value) -> bool:
    """Whether it can be reckoned with as a matrix or a vector."""
    vector = value.kind == "(" and not value.label and not any(item.kind for item in value.items)
    return value.kind in ("matrix", "arithmetic") or vector


def negated(value: Value) -> Expression | Struct:
    """Minus the value; minus a number is a number."""
    if isinstance(value, Number):
        return Number(-value.value, value.decimals, value.digits)
    return op("*", MINUS_ONE, value)


def divided(top: Value, bottom: Value) -> Expression:
    """A quotient; of two numbers it is a number, unless it comes out whole: 84/2 is arithmetic left undone."""
    if isinstance(top, Number) and isinstance(bottom, Number):
        if bottom.value == 0:
            raise Unreadable("division by zero")
        value = top.value / bottom.value
        if value == 0 or value.denominator > 1 or abs(bottom.value) == 1:
            return Number(value)
    return op("*", top, op("^", bottom, MINUS_ONE))


def replaced(value: Expression, by: dict[str, Expression]) -> Expression:
    """An expression with other values for some of its symbols."""
    if isinstance(value, Op):
        return Op(value.name, tuple(replaced(arg, by) for arg in value.args))
    return by.get(value.name, value) if isinstance(value, Symbol) else value


def parts(value: Value) -> tuple[Value, ...]:
    return value.args if isinstance(value, Op) else value.items if isinstance(value, Struct) else ()


def variables(value: Value) -> frozenset[str]:
    """The names of the variables and of unknown functions in a value; the index of a sum is none."""
    if isinstance(value, Symbol):
        return frozenset([value.name]) - CONSTANTS
    own = {value.name} if isinstance(value, Op) and value.name.endswith("()") else ()
    bound = variables(value.args[1]) if isinstance(value, Op) and value.name in ("sum", "prod") else ()
    return frozenset(own).union(*map(variables, parts(value))).difference(bound)


def whole_letters(value: Value) -> frozenset[str]:
    """The letters that only integers can stand for: in n!, a binomial, (-1)^n, a sum's bound, a floor of n."""
    found = frozenset().union(*map(whole_letters, parts(value)))
    if not isinstance(value, Op):
        return found
    negative = value.name == "^" and isinstance(value.args[0], Number) and value.args[0].value < 0
    whole = {"!": value.args, "binom": value.args, "sum": value.args[2:], "prod": value.args[2:]}
    found = found.union(*map(variables, whole.get(value.name, value.args[1:] * negative)))
    return found | (variables(value) & {*"ijklmnpq"}) if value.name in ("floor", "ceil") else found

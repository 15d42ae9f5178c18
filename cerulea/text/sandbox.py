"""Run a stranger's Jinja template: no attributes of ours, no changes, no endless work, no endless text.

In:      the source of a template, the values it may see.
Out:     its text; every error of it is Invalid.
Kept:    transformers' settings and functions, so that a template writes here what it writes there. Turns of loops and
         calls are counted; what is multiplied, padded, replaced or joined is measured before it is made.
Not here: what a template is for (`chat`, which imports this module, and with it Jinja, when it renders).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from cerulea.core.errors import Invalid

MOST_TURNS = 300_000  # of loops, and calls
MOST_CHARACTERS = 8_000_000  # in any value and in the whole text
_WIDE = re.compile(r"\d{6,}|\*")  # a width in a format that is meant to fill memory

_turns: ContextVar[list[int]] = ContextVar("turns")


def rendered(source: str, values: Mapping[str, Any]) -> str:
    """The text of the template.

    Raises:
        Invalid: it is malformed, refuses what it is given, fails, or does too much.
    """
    parts: list[str] = []
    size = 0
    token = _turns.set([MOST_TURNS])
    try:
        for part in _compiled(source).generate(**values):
            size += len(part)
            _check(size)
            parts.append(part)
    except TemplateSyntaxError as error:
        raise Invalid(
            f"The chat template has an error in line {error.lineno}: {error.message}.", fix="Correct the template."
        ) from error
    except SecurityError as error:
        raise Invalid(
            f"The chat template was stopped: {error}.", why="A template may only lay out messages.", fix="Use another."
        ) from error
    except TemplateError as error:  # also what raise_exception says
        raise Invalid(
            f"The chat template refuses these messages: {error}", fix="Change the order or the roles of the messages."
        ) from error
    except Exception as error:  # anything: it is a program
        raise Invalid(
            f"The chat template failed: {type(error).__name__}: {error}.",
            why="It expects messages or variables of another shape.",
            fix="Change the messages, or correct the template.",
        ) from error
    finally:
        _turns.reset(token)
    return "".join(parts)


@lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    return _Sandbox().from_string(source)


class _Generation(Extension):
    """{% generation %} marks what a model is trained to write; here its contents are written as they are."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own attribute)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Namespace(Namespace):
    """A namespace without names that begin with an underscore."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in dict(*args, **kwargs):
            _allow(name)
        super().__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _allow(name)
        super().__setitem__(name, value)


def _allow(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"{name!r} begins with an underscore")


class _Counted(NodeTransformer):
    """Put a counter on every loop and a measure on every concatenation."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 (Jinja's visitor)
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "#counted", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "#joined", [], [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**", "%", "+"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_measured
        )
        self.filters = {name: _careful(name, function) for name, function in self.filters.items()}
        self.filters |= {"tojson": _careful("tojson", _tojson), "#counted": _counted, "#joined": _joined}
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": lambda format: datetime.now().strftime(format),
            "namespace": _Namespace,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Counted().visit(super()._parse(source, name, filename))
        return tree

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as in Jinja)
        _turn()
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # Jinja wraps str.format
        if isinstance(owner, str):
            _check_text(__obj.__name__, owner, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_text("format", left, (right,), {})
        elif operator == "+":
            _check(_size(left, flat=True) + _size(right, flat=True))
        elif operator == "*":
            _check(_times(left, right))
        elif operator == "**":
            _check(abs(right) * 10_000 if isinstance(right, int) else 0)
        return super().call_binop(context, operator, left, right)


def _careful(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, behind a measure of what it is given."""

    @wraps(function)  # with Jinja's marks on it
    def filtered(*args: Any, **kwargs: Any) -> Any:
        given = [a for a in args if not isinstance(a, Context | EvalContext | _Sandbox)]
        if given:
            text = given[0] if isinstance(given[0], str) else ""
            _check(_size(given[0]))
            _check_text(name, text, given[1:], kwargs)
        return function(*args, **kwargs)

    return filtered


def _check_text(name: str, text: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse what would write too much text: `name` is a method of str or a filter."""
    given = [*args, *kwargs.values()]
    numbers = [abs(a) for a in given if isinstance(a, int)]
    size = len(text) + sum(_size(a) for a in given)
    if name in ("replace", "indent", "expandtabs", "join", "wordwrap"):
        old = given[0] if name == "replace" and given and isinstance(given[0], str) else ""
        times = text.count(old) if name == "replace" else len(text)
        longest = max([_size(a) for a in given if isinstance(a, str)] + numbers, default=0)
        if name == "join" and given and not isinstance(given[0], str):
            times = len(given[0]) if isinstance(given[0], list | tuple | dict | str) else MOST_TURNS
            longest = len(text)
        elif name == "indent":
            times = text.count("\n") + 1
        elif name == "expandtabs":
            times = text.count("\t")
        elif name in ("wordwrap", "join"):
            times = 0
        size += times * longest
    elif name in ("format", "format_map") and _WIDE.search(text):
        raise SecurityError("a format is too wide")
    _check(size + max(numbers, default=0))


def _times(left: Any, right: Any) -> int:
    """Characters or items, or digits, of a product."""
    if isinstance(left, int) and isinstance(right, int):
        return (left.bit_length() + right.bit_length()) * 1_000
    for one, times in ((left, right), (right, left)):
        if isinstance(one, str | list | tuple) and isinstance(times, int):
            return _size(one) * max(times, 0)
    return 0


def _size(value: Any, *, flat: bool = False) -> int:
    """About how many characters the value has as text; no more are counted than are allowed."""
    todo, size = [value], 0
    while todo and size <= MOST_CHARACTERS:
        one = todo.pop()
        if isinstance(one, str | bytes):
            size += len(one)
        elif isinstance(one, Mapping | list | tuple | set | frozenset):
            size += 2 + (len(one) if flat else 0)
            if not flat:
                todo.extend(one)
                todo.extend(one.values() if isinstance(one, Mapping) else ())
        else:
            size += 1
    return size


def _check(size: int) -> None:
    if size > MOST_CHARACTERS:
        raise SecurityError(f"it makes more than {MOST_CHARACTERS:,} characters")


def _turn() -> None:
    left = _turns.get([MOST_TURNS])
    left[0] -= 1
    if left[0] < 0:
        raise SecurityError(f"its loops and calls are more than {MOST_TURNS:,}")


def _measured(value: Any) -> Any:
    _check(_size(value))
    return value


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _turn()
        yield value


def _joined(parts: list[Any]) -> str:
    _check(_size(parts))
    return "".join(map(str, parts))


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML's escapes, as transformers writes it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

"""Runs functions of Swift source, which tree-sitter parses, as Python.

This is the small part of the language in which Pipeline.swift and HaarKernels.swift say what is
bound and launched: declarations, calls with labels, closures, loops over arrays, arithmetic. What
is beyond it raises `NotImplementedError`. The names that a function uses are its caller's affair,
as are the methods of the objects that it meets.
"""

from __future__ import annotations

import itertools
import keyword
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tree_sitter_swift
from tree_sitter import Language, Node, Parser, Tree

_parser = Parser(Language(tree_sitter_swift.language()))


def parse(file: Path) -> Tree:
    return _parser.parse(file.read_bytes())


class Array(list[Any]):
    """The methods of a Swift array that are in use."""

    def map(self, transform: Callable[[Any], Any]) -> Array:
        return Array(map(transform, self))

    def enumerated(self) -> Array:
        return Array(enumerate(self))

    def reversed(self) -> Array:
        return Array(self[::-1])


class Source:
    """The functions and computed properties of a file; of those of one name, the last."""

    def __init__(self, file: Path) -> None:
        self.text: dict[str, str] = {}
        for node in walk(parse(file).root_node):
            body = node.child_by_field_name("body") or node.child_by_field_name("computed_value")
            if node.type == "function_declaration" and body is not None:
                self._add(text(field(node, "name")), list(parameters(node)), body)
            elif node.type == "property_declaration" and body is not None:
                self._add(text(field(node, "name")), [], body)

    def run(self, name: str, names: Mapping[str, Any], *positional: Any, **labelled: Any) -> Any:
        """Call the function with the names that it sees besides its parameters."""
        scope = dict(names)
        exec(self.text[name], scope)
        return scope[name](*positional, **labelled)

    def _add(self, name: str, names: list[tuple[str, str]], body: Node) -> None:
        try:
            lines = list(_Translation().function(name, names, statements(body)))
        except NotImplementedError:
            return  # what is not run need not be understood
        self.text[name] = "\n".join(lines)


class _Translation:
    """Swift to Python; closures become functions that are defined before the statement."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.before: list[str] = []

    def function(self, name: str, names: list[tuple[str, str]], body: list[Node]) -> Iterator[str]:
        yield f"def {name}({', '.join(label for label, _ in names)}):"
        yield from (f"    {inner} = {label}" for label, inner in names if inner != label)
        yield from self.block(body, implicit_return=len(body) == 1)

    def block(self, body: list[Node], implicit_return: bool = False) -> Iterator[str]:
        for node in body:
            lines = list(self.statement(node))
            if implicit_return and len(lines) == 1 and node.type.endswith("_expression"):
                lines = ["return " + lines[0]]
            before, self.before = self.before, []
            yield from ("    " + line for line in before + lines)

    def statement(self, node: Node) -> Iterator[str]:
        if node.type == "property_declaration":
            name, value = field(node, "name"), self.expression(field(node, "value"))
            yield f"{self.pattern(name)} = {value}"
        elif node.type == "assignment":
            target, value = field(node, "target"), self.expression(field(node, "result"))
            yield f"{self.expression(target.named_children[0])} = {value}"
        elif node.type == "for_statement":
            item, collection = field(node, "item"), self.expression(field(node, "collection"))
            yield f"for {self.pattern(item)} in {collection}:"
            yield from self.block(statements(node))
        elif node.type == "control_transfer_statement" and text(node).startswith("return"):
            yield f"return {self.expression(field(node, 'result'))}"
        else:
            yield self.expression(node)

    def pattern(self, node: Node) -> str:
        inner = [child for child in node.named_children if child.type != "value_binding_pattern"]
        if inner and inner[0].type == "pattern":
            return ", ".join(map(self.pattern, inner))
        return text(node)

    def expression(self, node: Node) -> str:
        method = getattr(self, "_" + node.type, None)
        if method is None:
            raise NotImplementedError(f"{node.type}: {text(node)}")
        return str(method(node))

    def _simple_identifier(self, node: Node) -> str:
        return text(node).replace("$", "_")

    _integer_literal = _self_expression = _simple_identifier

    def _try_expression(self, node: Node) -> str:
        return self.expression(field(node, "expr"))

    def _postfix_expression(self, node: Node) -> str:
        value, operator = node.named_children
        if operator.type != "bang":
            raise NotImplementedError(text(node))
        return self.expression(value)

    def _navigation_expression(self, node: Node) -> str:
        target, member = field(node, "target"), text(field(field(node, "suffix"), "suffix"))
        if target.type == "key_path_expression":
            return f"lambda _: _.{member}"
        return f"{self.expression(target)}.{member}"

    def _binary(self, node: Node) -> str:
        operator = text(node.children[1])
        lhs, rhs = self.expression(field(node, "lhs")), self.expression(field(node, "rhs"))
        return f"{lhs} {'//' if operator == '/' else operator} {rhs}"  # of integers

    _additive_expression = _multiplicative_expression = _comparison_expression = _binary

    def _ternary_expression(self, node: Node) -> str:
        condition, yes, no = (
            self.expression(field(node, f)) for f in ("condition", "if_true", "if_false")
        )
        return f"({yes} if {condition} else {no})"

    def _tuple_expression(self, node: Node) -> str:
        return f"({', '.join(map(self.expression, node.named_children))})"

    def _array_literal(self, node: Node) -> str:
        return f"Array([{', '.join(map(self.expression, node.named_children))}])"

    def _range_expression(self, node: Node) -> str:
        if text(node.children[1]) != "..<":
            raise NotImplementedError(text(node))
        start, end = self.expression(field(node, "start")), self.expression(field(node, "end"))
        return f"range({start}, {end})"

    def _call_expression(self, node: Node) -> str:
        function, suffix = node.named_children
        values: list[str] = []  # closures that stand behind the arguments come first
        subscript = False
        for part in suffix.named_children:
            if part.type == "value_arguments":
                subscript = text(part).startswith("[")
                values += [self._argument(argument) for argument in part.named_children]
            else:
                values.insert(0, self.expression(part))
        left, right = "[]" if subscript else "()"
        return f"{self.expression(function)}{left}{', '.join(values)}{right}"

    def _argument(self, node: Node) -> str:
        value = self.expression(field(node, "value"))
        label = node.child_by_field_name("name")
        return value if label is None else f"{python_name(text(label))}={value}"

    def _lambda_literal(self, node: Node) -> str:
        """A closure, with named parameters or with $0."""
        kind = node.child_by_field_name("type")
        names = ["_0"]
        if kind is not None:
            names = [text(field(p, "name")) for p in walk(kind) if p.type == "lambda_parameter"]
        both = [(name, name) for name in names]
        name, inner = f"closure_{next(self.numbers)}", _Translation()
        inner.numbers = self.numbers
        self.before += inner.function(name, both, statements(node))
        return name


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    yield node
    for child in node.named_children:
        yield from walk(child)


def text(node: Node) -> str:
    assert node.text is not None
    return node.text.decode()


def field(node: Node, name: str) -> Node:
    found = node.child_by_field_name(name)
    if found is None:
        raise NotImplementedError(f"{node.type} without {name}: {text(node)}")
    return found


def statements(node: Node) -> list[Node]:
    (inner,) = (child for child in node.named_children if child.type == "statements")
    return [child for child in inner.named_children if child.type != "comment"]


def parameters(function: Node) -> Iterator[tuple[str, str]]:
    """What callers and the function itself call each parameter."""
    for node in function.named_children:
        if node.type == "parameter":
            name, label = text(field(node, "name")), node.child_by_field_name("external_name")
            known = name if label is None or text(label) == "_" else text(label)
            yield python_name(known), name


def python_name(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name

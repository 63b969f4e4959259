"""Which keys of the configuration the code reads, from its syntax trees: `settings.cache.metadata_ttl`, `client.rate`.

The type of an expression comes from annotations, from what is assigned, and from the schema. Flow is not followed: a
name has every type that it is given anywhere in its function. What cannot be told has no type, so nothing is found in
it: the error is to miss a read, never to make one up.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from msgspec.structs import fields
from support.schema_keys import keys, table_in, tables

from gateway.config import Config
from gateway.config.schema import Table


@dataclass(frozen=True)
class Own:
    """An instance of one of the gateway's classes."""

    name: str


@dataclass(frozen=True)
class Made:
    """What comes out of a container or a call: `how` is "items" (iterated), "values" (a mapping) or "call"."""

    how: str
    of: frozenset[Any]


@dataclass(frozen=True)
class Row:
    """A tuple."""

    parts: tuple[frozenset[Any], ...]


Types = frozenset[Any]
NONE: Final[Types] = frozenset()
TABLES: Final[dict[str, type[Table]]] = {table.__name__: table for table in (Config, *tables().values())}
KEYS: Final[dict[type[Table], str]] = {table: name for name, table in tables().items()}
CONTAINERS: Final = {"tuple": "items", "list": "items", "frozenset": "items", "Iterable": "items", "Sequence": "items"}
MAPPINGS: Final = ("dict", "Mapping", "OrderedDict")


def reads(sources: Iterable[Path]) -> set[str]:
    """Return the dotted keys that these files read."""
    return Program(ast.parse(path.read_text(encoding="utf-8")) for path in sources).reads()


class Program:
    """All files together: what is known of each class."""

    def __init__(self, trees: Iterable[ast.Module]) -> None:
        self._attributes: dict[tuple[str, str], set[Any]] = defaultdict(set)
        self._classes: set[str] = set()
        self._scopes = [scope for tree in trees for scope in self._read(tree)]
        for _ in range(4):  # what one function knows comes from another
            for scope in self._scopes:
                scope.bind()
                for name, types in scope.assigned_to_self():
                    self._attributes[scope.kind, name] |= types

    def reads(self) -> set[str]:
        return {key for scope in self._scopes for key in scope.reads()} & keys().keys()

    def attribute(self, kind: str, name: str) -> Types:
        return frozenset(self._attributes[kind, name])

    def is_own(self, name: str) -> bool:
        return name in self._classes

    def _read(self, tree: ast.Module) -> Iterator[Scope]:
        imported = _from_config(tree)
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                self._classes.add(node.name)
                yield from self._members(node, imported)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Scope(self, node, "", imported)

    def _members(self, kind: ast.ClassDef, imported: frozenset[str]) -> Iterator[Scope]:
        for node in kind.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self._attributes[kind.name, node.target.id] |= annotated(node.annotation, imported)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = annotated(node.returns, imported)
                plain = any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
                self._attributes[kind.name, node.name] |= given if plain else _made("call", given)
                yield Scope(self, node, kind.name, imported)


class Scope:
    """One function, of a class where `kind` is its name, with all that is nested in it."""

    def __init__(self, program: Program, function: Any, kind: str, imported: frozenset[str]) -> None:
        self.kind = kind
        self._program = program
        self._nodes = list(ast.walk(function))
        self._imported = imported
        self._names: dict[str, set[Any]] = defaultdict(set)
        for inner in self._all(ast.FunctionDef, ast.AsyncFunctionDef):
            for argument in (*inner.args.args, *inner.args.kwonlyargs):
                self._names[argument.arg] |= annotated(argument.annotation, imported)
        if kind and function.args.args:
            self._names[function.args.args[0].arg].add(Own(kind))

    def _all(self, *kinds: type[ast.AST]) -> Iterator[Any]:
        return (node for node in self._nodes if isinstance(node, kinds))

    def reads(self) -> Iterator[str]:
        for node in self._all(ast.Attribute):
            if isinstance(node.ctx, ast.Load):
                yield from _keys(self.types(node.value), [node.attr])
        for node in self._all(ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "getattr":
                yield from _keys(self.types(node.args[0]), self._texts(node.args[1]))

    def assigned_to_self(self) -> Iterator[tuple[str, Types]]:
        for node in self._all(ast.Assign, ast.AnnAssign):
            declared = NONE if isinstance(node, ast.Assign) else annotated(node.annotation, self._imported)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name, types in self._pairs(target, self.types(node.value)):
                    if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and name.value.id == "self":
                        yield name.attr, types | declared

    def _texts(self, node: ast.expr) -> list[str]:
        """Return what the second argument of `getattr` may be: itself, or what calls give for this parameter."""
        if isinstance(node, ast.Constant):
            return [str(node.value)]
        texts = []
        for inner in self._all(ast.FunctionDef):
            places = [n for n, a in enumerate(inner.args.args) if isinstance(node, ast.Name) and a.arg == node.id]
            for call in self._all(ast.Call) if places else ():
                if isinstance(call.func, ast.Name) and call.func.id == inner.name:
                    texts += [a.value for a in call.args[places[0] : places[0] + 1] if isinstance(a, ast.Constant)]
        return texts

    def bind(self) -> None:
        for node in self._all(ast.Assign, ast.NamedExpr, ast.For, ast.AsyncFor, ast.comprehension):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    self._bind(target, self.types(node.value))
            elif isinstance(node, ast.NamedExpr):
                self._bind(node.target, self.types(node.value))
            else:
                self._bind(node.target, _out_of("items", self.types(node.iter)))

    def _bind(self, target: ast.expr, types: Types) -> None:
        for name, part in self._pairs(target, types):
            if isinstance(name, ast.Name):
                self._names[name.id] |= part

    def _pairs(self, target: ast.expr, types: Types) -> Iterator[tuple[ast.expr, Types]]:
        if not isinstance(target, ast.Tuple):
            yield target, types
            return
        rows = [row.parts for row in types if isinstance(row, Row) and len(row.parts) == len(target.elts)]
        for number, element in enumerate(target.elts):
            yield from self._pairs(element, NONE.union(*(row[number] for row in rows)))

    def types(self, node: ast.AST | None) -> Types:
        """Return all types that the expression may have, as far as they matter here."""
        match node:
            case ast.Name(id=name):
                return frozenset(self._names[name])
            case ast.Attribute(value=value, attr=name):
                return NONE.union(*(self._attribute(kind, name) for kind in self.types(value)))
            case ast.Await(value=value) | ast.NamedExpr(value=value):
                return self.types(value)
            case ast.IfExp(body=one, orelse=other):
                return self.types(one) | self.types(other)
            case ast.BoolOp(values=values):
                return NONE.union(*map(self.types, values))
            case ast.Tuple(elts=elements):
                return frozenset({Row(tuple(map(self.types, elements)))})
            case ast.GeneratorExp(elt=element) | ast.ListComp(elt=element) | ast.SetComp(elt=element):
                return _made("items", self.types(element))
            case ast.DictComp(value=value):
                return _made("values", self.types(value))
            case ast.Subscript(value=value):
                return _out_of("values", self.types(value)) | _out_of("items", self.types(value))
            case ast.Call():
                return self._called(node)
        return NONE

    def _attribute(self, kind: Any, name: str) -> Types:
        if isinstance(kind, Own):
            return self._program.attribute(kind.name, name)
        if isinstance(kind, type):
            return next((_of_field(field.type) for field in fields(kind) if field.name == name), NONE)
        return NONE

    def _called(self, call: ast.Call) -> Types:
        match call.func:
            case ast.Name(id="next" | "iter"):
                return _out_of("items", self.types(call.args[0]))
            case ast.Name(id=name) if self._program.is_own(name) and name not in self._imported:
                return frozenset({Own(name)})
            case ast.Attribute(value=ast.Name(id="config"), attr="load" | "parse") | ast.Name(id="load"):
                return frozenset({Config})
            case ast.Attribute(value=value, attr="values"):
                return _made("items", _out_of("values", self.types(value)))
            case ast.Attribute(value=value, attr="items"):
                row = Row((NONE, _out_of("values", self.types(value))))
                return _made("items", frozenset({row}))
            case ast.Attribute(value=value, attr="get") if found := _out_of("values", self.types(value)):
                return found
        return _out_of("call", self.types(call.func))


def annotated(node: ast.expr | None, imported: frozenset[str]) -> Types:
    """Return what an annotation says."""
    match node:
        case ast.Attribute(value=ast.Name(id="config"), attr=name) if name in TABLES:
            return frozenset({TABLES[name]})
        case ast.Name(id=name):
            return frozenset({TABLES[name] if name in imported else Own(name)})
        case ast.BinOp(left=left, right=right):
            return annotated(left, imported) | annotated(right, imported)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=parts)) if not _is_open(parts):
            return frozenset({Row(tuple(annotated(part, imported) for part in parts))})
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in CONTAINERS:
            return _made("items", annotated(inner.elts[0] if isinstance(inner, ast.Tuple) else inner, imported))
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Tuple(elts=[_, value])) if name in MAPPINGS:
            return _made("values", annotated(value, imported))
        case ast.Subscript(value=ast.Name(id="Callable"), slice=ast.Tuple(elts=[_, value])):
            return _made("call", annotated(value, imported))
    return NONE


def _is_open(parts: list[ast.expr]) -> bool:
    return len(parts) == 2 and isinstance(parts[1], ast.Constant) and parts[1].value is ...


def _of_field(kind: Any) -> Types:
    table = table_in(kind)
    if table is None:
        return NONE
    if get_origin(kind) is dict:
        return _made("values", frozenset({table}))
    return _made("items", frozenset({table})) if get_args(kind) else frozenset({table})


def _keys(kinds: Types, names: Iterable[str]) -> Iterator[str]:
    for kind in kinds:
        if isinstance(kind, type) and kind in KEYS:
            yield from (f"{KEYS[kind]}.{name}" for name in names if name in kind.__struct_fields__)


def _made(how: str, of: Iterable[Any]) -> Types:
    kinds = frozenset(of)
    return frozenset({Made(how, kinds)}) if kinds else NONE


def _out_of(how: str, types: Types) -> Types:
    made = [kind.of for kind in types if isinstance(kind, Made) and kind.how == how]
    rows = [part for kind in types if isinstance(kind, Row) and how == "items" for part in kind.parts]
    return NONE.union(*made, *rows)


def _from_config(tree: ast.Module) -> frozenset[str]:
    imports = (
        node
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gateway.config")
    )
    return frozenset(alias.name for node in imports for alias in node.names if alias.name in TABLES)

"""DOT: the graph language of Graphviz, parsed with a grammar on lark.

Source: the grammar of https://graphviz.org/doc/info/lang.html; beyond it, `#` begins a comment anywhere, as
ModelBox graph files use it. Graphviz's own parser is the oracle of the tests.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

from modelbox.errors import GraphError, Where
from modelboxd.graph.model import Attr, EdgeSpec, NodeSpec

GRAMMAR = r"""
start: STRICT? (DIGRAPH | GRAPH) id? "{" statement* "}"
statement: (assignment | defaults | chain) ";"?
assignment: id "=" id
defaults: (GRAPH | NODE | EDGE) attributes+
chain: point (ARROW point)* attributes*
?point: node_id | subgraph_point
subgraph_point: subgraph
subgraph: (SUBGRAPH id?)? "{" statement* "}"
node_id: id (":" id (":" id)?)?
attributes: "[" (pair (";" | ",")?)* "]"
pair: id ("=" id)?
id: WORD | NUMERAL | HTML | QUOTED ("+" QUOTED)*

STRICT.2: /strict(?![\w\x80-\uffff])/i
DIGRAPH.2: /digraph(?![\w\x80-\uffff])/i
GRAPH.2: /graph(?![\w\x80-\uffff])/i
SUBGRAPH.2: /subgraph(?![\w\x80-\uffff])/i
NODE.2: /node(?![\w\x80-\uffff])/i
EDGE.2: /edge(?![\w\x80-\uffff])/i
ARROW: "->" | "--"
WORD: /[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*/
NUMERAL: /-?(\.[0-9]+|[0-9]+(\.[0-9]*)?)/
QUOTED: /"(\\(.|\n)|[^"\\])*"/
HTML: /<([^<>]|<[^<>]*>)*>/
COMMENT: /\/\/[^\n]*|\/\*(.|\n)*?\*\/|#[^\n]*/
%ignore COMMENT
%ignore /[\s\ufeff]+/
"""

_WANTED = {
    "LBRACE": "'{'",
    "RBRACE": "'}'",
    "LSQB": "'['",
    "RSQB": "']'",
    "EQUAL": "'='",
    "COLON": "':'",
    "ARROW": "'->'",
    "SEMICOLON": "';'",
    "COMMA": "','",
    "PLUS": "'+'",
    "WORD": "a name",
    "QUOTED": "a quoted text",
    "NUMERAL": "a number",
    "DIGRAPH": "'digraph'",
}
Locate = Callable[[int, int], Where]


@functools.cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", maybe_placeholders=False)


@dataclass(slots=True)
class DotGraph:
    """What a DOT text says."""

    name: str = ""
    attrs: dict[str, Attr] = field(default_factory=dict)
    nodes: dict[str, NodeSpec] = field(default_factory=dict)
    edges: list[EdgeSpec] = field(default_factory=list)


def parse_dot(text: str, locate: Locate) -> DotGraph:
    """Parses DOT; `locate(line, column)` says where a place of `text` is in the user's file.

    Raises GraphError that names the place, what was found and what was expected.
    """
    try:
        tree = _parser().parse(text)
    except UnexpectedToken as error:
        raise _unexpected(text, error, locate) from None
    except UnexpectedEOF:
        raise GraphError("the graph ends too early, expected '}'", where=_end(text, locate)) from None
    except UnexpectedCharacters as error:
        found = text[error.pos_in_stream or 0]
        hint = "a quoted text is not closed" if found == '"' else ""
        if text.startswith("/*", error.pos_in_stream or 0):
            hint = "a comment is not closed"
        raise GraphError(
            f"unexpected {found!r} in the graph", where=locate(error.line, error.column), hint=hint
        ) from None
    return _Builder(locate).build(tree)


def _end(text: str, locate: Locate) -> Where:
    lines = text.split("\n")
    return locate(len(lines), len(lines[-1]) + 1)


def _unexpected(text: str, error: UnexpectedToken, locate: Locate) -> GraphError:
    names = [_WANTED[name] for name in sorted(error.accepts or error.expected) if name in _WANTED]
    expected = ", ".join(sorted(set(names))) or "nothing more"
    if error.token.type == "$END":
        return GraphError(f"the graph ends too early, expected {expected}", where=_end(text, locate))
    where = locate(error.line, error.column)
    found = str(error.token).split("\n")[0][:40]
    return GraphError(f"unexpected '{found}' in the graph, expected {expected}", where=where)


class _Scope:
    """Defaults in force in one (sub)graph."""

    __slots__ = ("edge", "node", "nodes")

    def __init__(self, outer: _Scope | None) -> None:
        self.node: dict[str, Attr] = dict(outer.node) if outer else {}
        self.edge: dict[str, Attr] = dict(outer.edge) if outer else {}
        self.nodes: list[tuple[str, str | None]] = []


class _Builder:
    def __init__(self, locate: Locate) -> None:
        self.locate = locate
        self.graph = DotGraph()

    def build(self, tree: Tree[Token]) -> DotGraph:
        scope = _Scope(None)
        for child in tree.children:
            if isinstance(child, Token):
                if child.type == "GRAPH":
                    where = self._where(child)
                    raise GraphError("the graph must be a digraph, this one is undirected", where=where)
            elif child.data == "id":
                self.graph.name = _text(child)
            else:
                self._statement(child, scope, root=True)
        return self.graph

    def _where(self, token: Token) -> Where:
        return self.locate(token.line or 0, token.column or 0)

    def _statement(self, tree: Tree[Token], scope: _Scope, root: bool) -> None:
        (item,) = [child for child in tree.children if isinstance(child, Tree)]
        if item.data == "assignment":
            name, value = item.children
            assert isinstance(name, Tree) and isinstance(value, Tree)
            if root:
                self.graph.attrs[_text(name)] = self._attr(value)
        elif item.data == "defaults":
            kind, *lists = item.children
            target = {"NODE": scope.node, "EDGE": scope.edge}.get(getattr(kind, "type", ""))
            for key, attr in self._pairs(lists):
                if target is not None:
                    target[key] = attr
                elif root:
                    self.graph.attrs[key] = attr
        else:
            self._chain(item, scope)

    def _subgraph(self, tree: Tree[Token], scope: _Scope) -> list[tuple[str, str | None]]:
        inner = _Scope(scope)
        for child in tree.children:
            if isinstance(child, Tree) and child.data == "statement":
                self._statement(child, inner, root=False)
        scope.nodes += inner.nodes
        return list(dict.fromkeys(inner.nodes))

    def _chain(self, tree: Tree[Token], scope: _Scope) -> None:
        points: list[list[tuple[str, str | None]]] = []
        wheres: list[Where] = []
        attrs = dict(self._pairs([c for c in tree.children if isinstance(c, Tree) and c.data == "attributes"]))
        arrows = [child for child in tree.children if isinstance(child, Token)]
        for arrow in arrows:
            if arrow == "--":
                where = self._where(arrow)
                raise GraphError("unexpected '--', edges of a digraph are written '->'", where=where)
        for child in tree.children:
            if isinstance(child, Tree) and child.data == "node_id":
                ids = [_text(part) for part in child.children if isinstance(part, Tree)]
                token = _first_token(child)
                self._node(ids[0], scope, token, attrs if not arrows else {})
                points.append([(ids[0], ids[1] if len(ids) > 1 else None)])
                wheres.append(self._where(token))
            elif isinstance(child, Tree) and child.data == "subgraph_point":
                members = self._subgraph(_only_tree(child), scope)
                points.append([(name, None) for name, _ in members])
                wheres.append(self._where(_first_token(child)))
        for left, right, where in zip(points, points[1:], wheres, strict=False):
            for src, src_port in left:
                for dst, dst_port in right:
                    self.graph.edges.append(EdgeSpec(src, src_port, dst, dst_port, where))

    def _node(self, name: str, scope: _Scope, token: Token, attrs: dict[str, Attr]) -> None:
        scope.nodes.append((name, None))
        node = self.graph.nodes.get(name)
        if node is None:
            node = self.graph.nodes[name] = NodeSpec(name, dict(scope.node), self._where(token))
        node.attrs.update(attrs)

    def _pairs(self, lists: list[Tree[Token] | Token]) -> Iterator[tuple[str, Attr]]:
        for attributes in lists:
            assert isinstance(attributes, Tree)
            for pair in attributes.children:
                if isinstance(pair, Tree):
                    key, *value = [child for child in pair.children if isinstance(child, Tree)]
                    attr = self._attr(value[0]) if value else Attr("true", self._where(_first_token(key)))
                    yield _text(key), attr

    def _attr(self, tree: Tree[Token]) -> Attr:
        return Attr(_text(tree), self._where(_first_token(tree)))


def _only_tree(tree: Tree[Token]) -> Tree[Token]:
    return next(child for child in tree.children if isinstance(child, Tree))


def _first_token(tree: Tree[Token]) -> Token:
    return next(tree.scan_values(lambda item: isinstance(item, Token)), Token("WORD", "", line=0, column=0))


def _text(tree: Tree[Token]) -> str:
    """The value of an id: quotes removed, escaped quotes and line continuations resolved, parts joined."""
    parts = []
    for token in tree.children:
        text = str(token)
        if isinstance(token, Token) and token.type == "QUOTED":
            text = re.sub(r'\\(["\n])', lambda match: '"' if match[1] == '"' else "", text[1:-1])
        elif isinstance(token, Token) and token.type == "HTML":
            text = text[1:-1]
        parts.append(text)
    return "".join(parts)

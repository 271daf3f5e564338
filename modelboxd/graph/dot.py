"""DOT: the graph language of Graphviz, parsed with a grammar on lark.

Source: the grammar of https://graphviz.org/doc/info/lang.html. Graphviz's own parser is the oracle of the tests.
Ours differs on purpose: `#` begins a comment anywhere, as ModelBox graph files use it; `strict` drops only edges
that are equal port by port, so that none is lost; a compass point behind a port (`a:out:ne`) is ignored.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

from modelbox.errors import GraphError, Where
from modelboxd.graph.model import Attr, EdgeSpec, NodeSpec
from modelboxd.graph.places import Locate

MAX_DEPTH = 100  # of nested subgraphs
HTML_DEPTH = 8  # of nested <...>; a regular expression needs a limit


def _html() -> str:
    inside = "[^<>]"
    for _ in range(HTML_DEPTH):
        inside = f"[^<>]|<(?:{inside})*>"
    return f"<(?:{inside})*>"


# Names: an ASCII letter, "_" or anything beyond ASCII; what Unicode calls a space (no-break space) is none.
_END = r"\[-^`{-\x7f\s"
_WORD = (
    r"(?!(?i:strict|digraph|graph|subgraph|node|edge)(?![\w\x80-\uffff]))"
    rf"[^\x00-@{_END}][^\x00-\/:-@{_END}]*"
)
GRAMMAR = (
    r"""
start: STRICT? (DIGRAPH | GRAPH) id? "{" statement* "}"
statement: (assignment | defaults | chain) ";"?
assignment: id "=" id
defaults: (GRAPH | NODE | EDGE) attributes+
chain: point (ARROW point)* attributes*
?point: nodes | subgraph
nodes: node_id ("," node_id)*
subgraph: (SUBGRAPH id?)? LBRACE statement* "}"
node_id: id (":" id (":" id)?)?
attributes: "[" (pair (";" | ",")?)* "]"
pair: id "=" id
id: WORD | NUMERAL | HTML | QUOTED ("+" QUOTED)*

STRICT.2: /strict(?![\w\x80-\uffff])/i
DIGRAPH.2: /digraph(?![\w\x80-\uffff])/i
GRAPH.2: /graph(?![\w\x80-\uffff])/i
SUBGRAPH.2: /subgraph(?![\w\x80-\uffff])/i
NODE.2: /node(?![\w\x80-\uffff])/i
EDGE.2: /edge(?![\w\x80-\uffff])/i
ARROW: "->" | "--"
LBRACE: "{"
WORD: /"""
    + _WORD
    + r"""/
NUMERAL: /-?(\.[0-9]+|[0-9]+(\.[0-9]*)?)(?![0-9A-Za-z_.])/
QUOTED: /"(\\(.|\n)|[^"\\])*"/
HTML: /"""
    + _html()
    + r"""/
COMMENT: /\/\/[^\n]*|\/\*(.|\n)*?\*\/|#[^\n]*/
%ignore COMMENT
%ignore /[\s\ufeff]+/
"""
)

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
_KEYWORDS = ("STRICT", "DIGRAPH", "GRAPH", "SUBGRAPH", "NODE", "EDGE")
_HINTS = {
    '"': "a quoted text is not closed",
    "/": "a comment is not closed, or a text with '/' needs quotes",
    "<": "a text in <...> is not closed",
}
_QUOTES = "names and values of more than letters, digits and '_' need quotes"

_Point = tuple[str, str | None, Where]  # node, port, place


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
        with _no_collection():
            return _Builder(locate).build(_parser().parse(text))
    except UnexpectedToken as error:
        raise _unexpected(text, error, locate) from None
    except UnexpectedEOF:
        raise GraphError("the graph ends too early, expected '}'", where=_end(text, locate)) from None
    except UnexpectedCharacters as error:
        at = error.pos_in_stream or 0
        word = re.compile(r"[-\w.]+").match(text, at)  # such as 1.2.3, which is no number
        found = word[0][:40] if word else text[at]
        hint = _HINTS.get(found, _QUOTES)
        if text.startswith("/*", at):
            hint = "a comment is not closed"
        elif text.startswith("<-", at):
            hint = "edges are written 'from -> to'"
        where = locate(error.line, error.column)
        raise GraphError(f"unexpected {found!r} in the graph", where=where, hint=hint) from None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """A syntax tree is many small objects and no garbage; looking for some takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _end(text: str, locate: Locate) -> Where:
    lines = text.split("\n")
    return locate(len(lines), len(lines[-1]) + 1)


def _unexpected(text: str, error: UnexpectedToken, locate: Locate) -> GraphError:
    names = {_WANTED[name] for name in error.accepts or error.expected if name in _WANTED}
    expected = ", ".join(sorted(names)) or "nothing more"
    if error.token.type == "$END":
        return GraphError(f"the graph ends too early, expected {expected}", where=_end(text, locate))
    where = locate(error.line, error.column)
    found = str(error.token).split("\n")[0][:40]
    before = error.token_history[-1] if error.token_history else None
    word = next((token for token in (error.token, before) if token is not None and token.type in _KEYWORDS), None)
    hint = f"'{word}' is a word of DOT; as a name it needs quotes" if word is not None else ""
    return GraphError(f"unexpected '{found}' in the graph, expected {expected}", where=where, hint=hint)


class _Scope:
    """Defaults in force in one (sub)graph."""

    __slots__ = ("depth", "edge", "group", "node", "nodes", "own_edge", "own_node", "subgraphs")

    def __init__(self, depth: int, group: tuple[str, ...]) -> None:
        self.depth = depth
        self.group = group  # names of the clusters around, and of this one
        self.own_node: dict[str, Attr] = {}
        self.own_edge: dict[str, Attr] = {}
        self.node = self.own_node  # with those of the graphs around it
        self.edge = self.own_edge
        self.nodes: dict[str, None] = {}  # an ordered set
        self.subgraphs: dict[str, _Scope] = {}  # by name: a second one of that name goes on with the first

    def enter(self, outer: _Scope) -> None:
        self.node = outer.node | self.own_node
        self.edge = outer.edge | self.own_edge

    def default(self, kind: str, key: str, attr: Attr) -> None:
        own, all_of_them = (self.own_node, self.node) if kind == "NODE" else (self.own_edge, self.edge)
        own[key] = all_of_them[key] = attr


@dataclass(frozen=True, slots=True)
class _Members:
    """The nodes of a subgraph as one end of edges; it may be opened again before the edges are made."""

    scope: _Scope
    where: Where

    def __iter__(self) -> Iterator[_Point]:
        return ((name, None, self.where) for name in self.scope.nodes)


class _Builder:
    def __init__(self, locate: Locate) -> None:
        self.locate = locate
        self.graph = DotGraph()
        self._edges: set[tuple[str, str | None, str, str | None]] | None = None  # those made, if strict

    def build(self, tree: Tree[Token]) -> DotGraph:
        scope = _Scope(0, ())
        for child in tree.children:
            if isinstance(child, Token):
                if child.type == "STRICT":
                    self._edges = set()
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
            assert isinstance(kind, Token)
            for key, attr in self._pairs(lists):
                if kind.type != "GRAPH":
                    scope.default(kind.type, key, attr)
                elif root:
                    self.graph.attrs[key] = attr
        else:
            self._chain(item, scope)

    def _subgraph(self, tree: Tree[Token], scope: _Scope) -> _Scope:
        if scope.depth == MAX_DEPTH:
            where = self._where(_first_token(tree))
            raise GraphError(f"subgraphs are nested more than {MAX_DEPTH} deep", where=where)
        name = next((_text(child) for child in tree.children if isinstance(child, Tree) and child.data == "id"), None)
        is_cluster = name is not None and name.startswith("cluster")
        group = (*scope.group, _cluster_name(name)) if name is not None and is_cluster else scope.group
        inner = _Scope(scope.depth + 1, group)
        if name is not None:
            inner = scope.subgraphs.setdefault(name, inner)
        inner.enter(scope)
        for child in tree.children:
            if isinstance(child, Tree) and child.data == "statement":
                self._statement(child, inner, root=False)
        scope.nodes.update(inner.nodes)
        return inner

    def _chain(self, tree: Tree[Token], scope: _Scope) -> None:
        attrs = dict(self._pairs([c for c in tree.children if isinstance(c, Tree) and c.data == "attributes"]))
        arrows = [child for child in tree.children if isinstance(child, Token)]
        for arrow in arrows:
            if arrow == "--":
                where = self._where(arrow)
                raise GraphError("unexpected '--', edges of a digraph are written '->'", where=where)
        points: list[Iterable[_Point]] = []
        for child in tree.children:
            if isinstance(child, Tree) and child.data == "nodes":
                points.append([self._point(node, scope, {} if arrows else attrs) for node in child.children])
            elif isinstance(child, Tree) and child.data == "subgraph":
                where = self._where(_first_token(child))
                points.append(_Members(self._subgraph(child, scope), where))
        if arrows:
            attrs = scope.edge | attrs
            for left, right in itertools.pairwise(points):
                for src in left:
                    for dst in right:
                        self._edge(src, dst, attrs)

    def _point(self, tree: Tree[Token] | Token, scope: _Scope, attrs: dict[str, Attr]) -> _Point:
        assert isinstance(tree, Tree)
        name, *ports = [_text(part) for part in tree.children if isinstance(part, Tree)]
        where = self._where(_first_token(tree))
        scope.nodes[name] = None
        node = self.graph.nodes.get(name)
        if node is None:
            node = self.graph.nodes[name] = NodeSpec(name, dict(scope.node), where, scope.group)
        elif scope.group[: len(node.group)] == node.group:  # deeper inside; in unrelated clusters the first one counts
            node.group = scope.group
        node.attrs.update(attrs)
        return name, ports[0] if ports else None, where

    def _edge(self, src: _Point, dst: _Point, attrs: dict[str, Attr]) -> None:
        ports = [attrs[key].text if key in attrs else None for key in ("tailport", "headport")]
        src_port = ports[0] if src[1] is None else src[1]
        dst_port = ports[1] if dst[1] is None else dst[1]
        if self._edges is not None:
            edge = (src[0], src_port, dst[0], dst_port)
            if edge in self._edges:
                return
            self._edges.add(edge)
        self.graph.edges.append(EdgeSpec(src[0], src_port, dst[0], dst_port, src[2], attrs))

    def _pairs(self, lists: list[Tree[Token] | Token]) -> Iterator[tuple[str, Attr]]:
        for attributes in lists:
            assert isinstance(attributes, Tree)
            for pair in attributes.children:
                if isinstance(pair, Tree):
                    key, value = pair.children
                    assert isinstance(key, Tree) and isinstance(value, Tree)
                    yield _text(key), self._attr(value)

    def _attr(self, tree: Tree[Token]) -> Attr:
        return Attr(_text(tree), self._where(_first_token(tree)))


def _cluster_name(name: str) -> str:
    """What a cluster is called: Graphviz draws a subgraph whose name begins with "cluster" as a box."""
    return name.removeprefix("cluster").lstrip("_") or name


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

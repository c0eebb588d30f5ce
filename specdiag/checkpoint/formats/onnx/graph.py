"""ONNX model -> the tensors that it stores, and the operators that use them.

Field numbers are those of ``onnx.proto``.
"""

from collections import ChainMap
from dataclasses import dataclass, field
from typing import NamedTuple

from specdiag.checkpoint.formats.onnx.wire import Span, Wire
from specdiag.checkpoint.tensor import MAX_DIMENSIONS, MAX_NAME, checked_shape
from specdiag.wording import shown

MAX_LEVELS = 20  # of graphs in the attributes of operators
DTYPES = dict(
    enumerate(
        (
            *("float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool"),
            *("float16", "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16"),
            *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
            *("uint4", "int4", "float4_e2m1", "float8_e8m0fnu", "uint2", "int2"),
        ),
        start=1,
    )
)
_LISTS = ("perm", "axes", "qkv_hidden_sizes")  # attributes that are read
_TYPED = {4: "float32", 10: "float64"}  # fields of packed values that are stored as they are


class Stored(NamedTuple):
    """A tensor of the model.

    Attributes
    ----------
    name, dtype : str
    shape : tuple of int
    place : Span or None
        The bytes of its values in the file, if they are stored as they are.
    external : dict
        Location, offset and length, if they are in another file.
    whole : Span
        The message that describes it.
    is_constant : bool
        Whether it is the value of a Constant operator.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    place: Span | None
    external: dict[str, str]
    whole: Span
    is_constant: bool = False


class Node(NamedTuple):
    """An operator; `numbers`, `lists` and `notation` are attributes.

    `numbers` and `lists` are those that are whole numbers, and lists of them; `notation` is the
    equation of an Einsum.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[str, int]
    lists: dict[str, tuple[int, ...]]
    notation: str = ""


@dataclass
class Graph:
    """The tensors of all graphs of a model by name, its operators, and its metadata.

    The names in a graph that is the attribute of an operator begin with that of the operator.
    """

    tensors: dict[str, Stored] = field(default_factory=dict)
    sparse: list[Stored] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    metadata: dict[str, str | int] = field(default_factory=dict)


def read_graph(wire: Wire) -> Graph:
    """Return the graph of a model.

    Raises
    ------
    ValueError
        If the file is no ONNX model, or damaged.
    """
    graph, found = Graph(), False
    for number, value in wire.fields(wire.whole):
        if number == 7:
            found = True
            _collect(wire, wire.span(value), graph, ChainMap(), "")
        elif number == 25:
            _collect_function(wire, wire.span(value), graph)
        elif number in (2, 3):
            graph.metadata["producer_name" if number == 2 else "producer_version"] = wire.text(
                value
            )
    if not found:
        raise ValueError(f"{wire.where}: not an ONNX model: it has no graph")
    return graph


def _collect(
    wire: Wire, span: Span, graph: Graph, scope: ChainMap[str, str], prefix: str, level: int = 0
) -> None:
    """Put the tensors and the operators of a graph into `graph`.

    `scope` has the full names of the tensors that the graph can see.
    """
    if level > MAX_LEVELS:
        raise ValueError(f"{wire.where}: graphs nested more than {MAX_LEVELS} times")
    nodes = []
    for number, value in wire.fields(span):
        if number == 1:
            nodes.append(wire.span(value))
        elif number == 5:
            _add(wire, _stored(wire, wire.span(value)), graph, scope, prefix)
        elif number == 15:
            graph.sparse.append(_sparse(wire, wire.span(value), prefix))
    _collect_nodes(wire, nodes, graph, scope, prefix, level)


def _collect_function(wire: Wire, span: Span, graph: Graph) -> None:
    """Put the constants of a function of the model into `graph`."""
    name, nodes = "function", []
    for number, value in wire.fields(span):
        if number == 1:
            name = wire.text(value)
        elif number == 7:
            nodes.append(wire.span(value))
    _collect_nodes(wire, nodes, graph, ChainMap(), f"{name}.", 0)


def _collect_nodes(
    wire: Wire,
    nodes: list[Span],
    graph: Graph,
    scope: ChainMap[str, str],
    prefix: str,
    level: int,
) -> None:
    for span in nodes:
        node, constant, inner = _node(wire, span)
        if constant and node.op == "Constant" and node.outputs:
            stored = _stored(wire, constant)._replace(name=node.outputs[0], is_constant=True)
            _add(wire, stored, graph, scope, prefix)
        inputs = tuple(scope.get(name, prefix + name) if name else "" for name in node.inputs)
        scope |= {name: prefix + name for name in node.outputs}
        outputs = tuple(prefix + name for name in node.outputs)
        graph.nodes.append(node._replace(inputs=inputs, outputs=outputs))
        for name, subgraph in inner:
            start = f"{prefix}{node.name or node.op}.{name}."
            _collect(wire, subgraph, graph, scope.new_child(), start, level + 1)


def _add(wire: Wire, stored: Stored, graph: Graph, scope: ChainMap[str, str], prefix: str) -> None:
    name = prefix + stored.name
    if name in graph.tensors:
        raise ValueError(f"{wire.where}: the tensor {shown(name)} occurs twice")
    if not stored.name or len(name) > MAX_NAME:
        raise ValueError(f"{wire.where}: a tensor without a name, or with a very long one")
    scope[stored.name] = name
    graph.tensors[name] = stored._replace(name=name)


def _node(wire: Wire, span: Span) -> tuple[Node, Span | None, list[tuple[str, Span]]]:
    """Return an operator, the tensor in its attribute `value`, and the graphs in its attributes."""
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
    node = Node("", "", (), (), {}, {})
    constant, inner = None, []
    for number, value in wire.fields(span):
        if number in texts:
            texts[number].append(wire.text(value))
        elif number == 5:
            name, contents = _attribute(wire, wire.span(value))
            if name == "value" and 5 in contents:
                constant = wire.span(contents[5][-1])
            elif name == "equation" and 4 in contents:
                node = node._replace(notation=wire.text(contents[4][-1]))
            elif name in _LISTS:
                node.lists[name] = tuple(
                    n for part in contents.get(8, ()) for n in wire.numbers(part)
                )
            for content in contents.get(3, ()):
                node.numbers[name] = wire.number(content)
            inner += [(name, wire.span(part)) for key in (6, 11) for part in contents.get(key, ())]
    op, name = "".join(texts[4][-1:]), "".join(texts[3][-1:])
    node = node._replace(op=op, name=name, inputs=(*texts[1],), outputs=(*texts[2],))
    return node, constant, inner


def _attribute(wire: Wire, span: Span) -> tuple[str, dict[int, list[int | Span]]]:
    """Return the name of an attribute of an operator, and its other fields."""
    name, contents = "", dict[int, list[int | Span]]()
    for number, value in wire.fields(span):
        if number == 1:
            name = wire.text(value)
        else:
            contents.setdefault(number, []).append(value)
    return name, contents


def _stored(wire: Wire, span: Span) -> Stored:
    """Return what a TensorProto says of its tensor."""
    name, kind, dims = "", 0, list[int]()
    place, typed, external, is_external = None, dict[str, Span](), dict[str, str](), False
    for number, value in wire.fields(span):
        if number == 1 and len(dims) <= MAX_DIMENSIONS:
            dims += wire.numbers(value)
        elif number == 2:
            kind = wire.number(value)
        elif number == 8:
            name = wire.text(value)
        elif number == 9:
            place = wire.span(value)
        elif number in _TYPED and isinstance(value, Span):
            typed[_TYPED[number]] = value
        elif number == 13:
            external |= _entry(wire, wire.span(value))
        elif number == 14:
            is_external = value == 1
    dtype = DTYPES.get(kind, f"type {kind}")
    where = f"{wire.where}: {shown(name)}"
    shape = checked_shape(dims, 16, where)
    if is_external and "location" not in external:
        raise ValueError(f"{where}: its values are in another file that is not named")
    return Stored(
        name, dtype, shape, place or typed.get(dtype), external if is_external else {}, span
    )


def _entry(wire: Wire, span: Span) -> dict[str, str]:
    texts = {number: wire.text(value) for number, value in wire.fields(span) if number in (1, 2)}
    return {texts.get(1, ""): texts.get(2, "")}


def _sparse(wire: Wire, span: Span, prefix: str) -> Stored:
    """Return a sparse tensor: it has the name and the dtype of its values."""
    values, dims = None, list[int]()
    for number, value in wire.fields(span):
        if number == 1:
            values = _stored(wire, wire.span(value))
        elif number == 3 and len(dims) <= MAX_DIMENSIONS:
            dims += wire.numbers(value)
    name = prefix + (values.name if values and values.name else "sparse")
    shape = checked_shape(dims, 16, f"{wire.where}: {shown(name)}")
    return Stored(name, values.dtype if values else "unknown", shape, None, {}, span)

"""Fewer nodes in an ONNX graph: one node for each layer norm, GELU and table look-up."""

import numpy as np

# The first operator set with GELU.
_OPSET = 20


def fuse(proto):
    """Replaces the nodes that `tf2onnx` writes for a layer norm, exact GELU or look-up by one node, in place.

    Nodes of another form are kept; the graph computes the same in any case.

    Args:
        proto: `onnx.ModelProto`.
    """
    from onnx import helper

    graph = _Graph(proto)
    for node in list(proto.graph.node):
        for kind, match in (("LayerNormalization", _layer_norm), ("Gelu", _gelu), ("Gather", _look_up)):
            found = match(graph, node)
            if found is not None:
                inputs, attributes = found
                graph.replace(node, helper.make_node(kind, inputs, list(node.output), node.name, **attributes))
                break
    graph.leave_out_what_nothing_reads()
    for each in proto.opset_import:
        if each.domain == "":
            each.version = max(each.version, _OPSET)


class _Graph:
    """The nodes of a graph by their outputs."""

    def __init__(self, proto):
        self.graph = proto.graph
        self._made = {name: node for node in self.graph.node for name in node.output}
        self._constants = {each.name: each for each in self.graph.initializer}
        self._places = {id(node): i for i, node in enumerate(self.graph.node)}

    def maker(self, name, kind):
        """Returns the node that makes a tensor if it is of this kind, else `None`."""
        node = self._made.get(name)
        return node if node is not None and node.op_type == kind else None

    def constant(self, name):
        """Returns a constant as an array, or `None` if it is not one."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def keep(self, name, array):
        """Adds an array to the graph's constants; returns its name."""
        from onnx import numpy_helper

        if name not in self._constants:
            self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
            self._constants[name] = self.graph.initializer[-1]
        return name

    def replace(self, old, new):
        """Replaces a node by another."""
        place = self._places.pop(id(old))
        self.graph.node[place].CopyFrom(new)
        node = self.graph.node[place]
        self._places[id(node)] = place
        self._made |= dict.fromkeys(node.output, node)

    def leave_out_what_nothing_reads(self):
        """Removes the nodes and constants that no output needs."""
        needed = {output.name for output in self.graph.output}
        nodes = []
        for node in reversed(self.graph.node):
            if needed & set(node.output):
                nodes.append(node)
                needed |= set(node.input)
        constants = [each for each in self.graph.initializer if each.name in needed]
        for field, kept in (("node", reversed(nodes)), ("initializer", constants)):
            kept = [type(each).FromString(each.SerializeToString()) for each in kept]
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(kept)


def _layer_norm(graph, node):
    """`x k + (b - mean k)`, with `k = g / sqrt(variance + epsilon)`; `b` may be missing."""
    if node.op_type != "Add":
        return None
    scaled, shift = graph.maker(node.input[0], "Mul"), graph.maker(node.input[1], "Add")
    moved = graph.maker(shift.input[0] if shift else node.input[1], "Mul")  # without `b`, there is no addition
    if scaled is None or moved is None:
        return None
    x, factor = scaled.input
    made = graph.maker(factor, "Mul")
    if made is None or factor != moved.input[1]:
        return None
    inverse = graph.maker(made.input[0], "Reciprocal")
    root = inverse and graph.maker(inverse.input[0], "Sqrt")
    summed = root and graph.maker(root.input[0], "Add")
    variance = summed and graph.maker(summed.input[0], "ReduceMean")
    squares = variance and graph.maker(variance.input[0], "Mul")
    minus = graph.maker(moved.input[0], "Neg")
    mean = minus and graph.maker(minus.input[0], "ReduceMean")
    difference = squares and squares.input[0] == squares.input[1] and graph.maker(squares.input[0], "Sub")
    if not mean or not difference or list(difference.input) != [x, mean.output[0]] or mean.input[0] != x:
        return None
    names = [made.input[1], *([shift.input[1]] if shift else [])]
    weights, epsilon = [graph.constant(name) for name in names], graph.constant(summed.input[1])
    axes = [graph.constant(each.input[1]) for each in (mean, variance) if len(each.input) > 1]
    if any(each is None for each in (*weights, epsilon, *axes)) or len(axes) != 2 or epsilon.size != 1:
        return None
    if any(each.size != each.shape[-1] or each.size != weights[0].size for each in weights):
        return None
    if any(each.ravel().tolist() != [-1] for each in axes):
        return None
    names = [graph.keep(f"{name}/flat", each.reshape(-1)) for name, each in zip(names, weights, strict=True)]
    return [x, *names], {"axis": -1, "epsilon": float(epsilon.reshape(()))}


def _gelu(graph, node):
    """`0.5 x (1 - erf(-x / sqrt(2)))`."""
    if node.op_type != "Mul":
        return None
    half, tail = graph.maker(node.input[0], "Mul"), graph.maker(node.input[1], "Sub")
    erf = tail and graph.maker(tail.input[1], "Erf")
    scaled = erf and graph.maker(erf.input[0], "Mul")
    minus = scaled and graph.maker(scaled.input[0], "Neg")
    if not half or not minus:
        return None
    numbers = [graph.constant(name) for name in (*half.input, tail.input[0], scaled.input[1])]
    left, right, one, root = (None if each is None or each.size != 1 else float(each.reshape(())) for each in numbers)
    x, factor = (half.input[1], left) if left is not None else (half.input[0], right)
    if x != minus.input[0] or (factor, one) != (0.5, 1.0) or root is None or abs(root - 0.5**0.5) > 1e-6:
        return None
    return [x], {}


def _look_up(graph, node):
    """Rows of a table by id, with negative ids counted from its end, as in ONNX's own look-up."""
    if node.op_type != "Gather" or graph.constant(node.input[0]) is None:
        return None
    both = graph.maker(node.input[1], "Add")
    parts = [graph.maker(name, "Mul") for name in both.input] if both else []
    if len(parts) != 2 or None in parts:
        return None
    # (ids < 0) * (ids + rows) + ids * not (ids < 0)
    rows = len(graph.constant(node.input[0]))
    for moved, kept in (parts, parts[::-1]):
        ids, flag = kept.input
        where = graph.maker(flag, "Cast")
        negated = where and graph.maker(where.input[0], "Not")
        less = negated and graph.maker(negated.input[0], "Less")
        around = graph.maker(moved.input[1], "Add")
        chosen = graph.maker(moved.input[0], "Cast")
        if not less or not around or not chosen or chosen.input[0] != less.output[0] or around.input[0] != ids:
            continue
        compared = graph.maker(less.input[0], "Cast")
        limit, number = graph.constant(less.input[1]), graph.constant(around.input[1])
        is_same = less.input[0] == ids or (compared and compared.input[0] == ids)
        if is_same and limit is not None and not limit.any() and number is not None and (number == rows).all():
            return [node.input[0], ids], {"axis": next((a.i for a in node.attribute if a.name == "axis"), 0)}
    return None

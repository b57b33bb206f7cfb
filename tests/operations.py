"""Checks the operations in the graph of an export against those that a server links."""

import json
import pathlib
import subprocess
import sys
import textwrap

from tensorflow.core.protobuf import saved_model_pb2

# Operations that may be stateful: weights, which are written only when they are restored; files; checks, calls and
# loops.
WEIGHTS = {
    "AssignVariableOp",
    "DisableCopyOnRead",
    "ReadVariableOp",
    "ResourceGather",
    "VarHandleOp",
    "VarIsInitializedOp",
}
FILES = {"MergeV2Checkpoints", "RestoreV2", "SaveV2"}
CALLS = {"Assert", "If", "StatefulPartitionedCall", "While"}
# Tables of the tokenizers. The graph fills them once, and they never grow.
TABLES = {"HashTableV2", "LookupTableFindV2", "LookupTableImportV2", "SentencepieceOp", "SentencepieceTokenizeOp"}
STATEFUL = WEIGHTS | FILES | CALLS | TABLES
REGISTERED = """
    import json, sys
    import tensorflow
    import tensorflow_text
    from tensorflow.python.framework import op_def_registry

    found = {name: op_def_registry.get(name) for name in json.load(sys.stdin)}
    json.dump({name: op and op.is_stateful for name, op in found.items()}, sys.stdout)
    assert not {"tfxfer", "keras_hub"} & set(sys.modules)
"""


def saved_model(path):
    return saved_model_pb2.SavedModel.FromString(pathlib.Path(path, "saved_model.pb").read_bytes())


def registered(names):
    """Says which operations are stateful; `None` for those that TensorFlow and TF Text do not register."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REGISTERED)],
        input=json.dumps(sorted(names)),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def check(paths):
    """Checks that exports and their functions use only operations that a server has and allows; returns them."""
    used = set()
    for path in paths:
        [meta_graph] = saved_model(path).meta_graphs
        graph = meta_graph.graph_def
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        used |= {node.op for node in nodes} - {function.signature.name for function in graph.library.function}
        # The server has no Python, and XLA is off.
        marked = [*nodes, *graph.library.function]
        assert not [key for each in marked for key in each.attr if "xla" in key.lower() and each.attr[key].b]
        assert not [node.name for node in nodes if "PyFunc" in node.op or "Xla" in node.op]
        # The newest server is one release older than TensorFlow.
        assert graph.versions.min_consumer <= 12
    known = registered(used)
    assert not [name for name, stateful in known.items() if stateful is None]
    assert not {name for name, stateful in known.items() if stateful} - STATEFUL
    assert not [name for name in used if "Mutable" in name or "Insert" in name], "a table that grows"
    return used

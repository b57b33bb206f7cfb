"""Every public name has a complete docstring: what it does, its arguments, results, errors and a runnable example."""

import inspect
import re

import pytest

import tfxfer

# Arguments that are passed on unchanged, and those that Keras gives every loss, layer and model.
KNOWN = {"args", "kwargs", "name", "trainable"}


def public(module, path="tfxfer", seen=None):
    """(path, object) of every name in the `__all__` of the package and of its public modules, each object once."""
    seen = set() if seen is None else seen
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if inspect.ismodule(value):
            yield from public(value, f"{path}.{name}", seen)
        elif callable(value) and id(value) not in seen:
            seen.add(id(value))
            yield f"{path}.{name}", value


PUBLIC = dict(public(tfxfer))


def parameters(function):
    """The names that a caller may pass."""
    found = inspect.signature(function).parameters
    return [name for name in found if name not in {"self", "cls"} | KNOWN and not name.startswith("_")]


def undocumented(function, doc, in_prose, base):
    """The parameters that a docstring does not describe; for methods, a mention in the text or the base is enough."""
    entries = [
        r"^ *(?:`?\**\w+`?, )*`?\**NAME`?(?:, `?\**\w+`?)* *(?:\(.*\))?:",
        *([r"`NAME\b"] if in_prose else []),
    ]
    return [
        name
        for name in parameters(function)
        if (base is None or name not in inspect.signature(base).parameters)
        and not any(re.search(entry.replace("NAME", re.escape(name)), doc, re.MULTILINE) for entry in entries)
    ]


def raises(function):
    """Whether a function's own source raises errors."""
    try:
        source = inspect.getsource(function)
    except OSError:  # the constructor of a dataclass
        return False
    return bool(re.search(r"^\s*raise\b|\b_check\.\w+\(", source, re.MULTILINE))


def faults(function, doc, is_class=False, is_method=False, base=None):
    """What a docstring lacks. A method that overrides the `base` method need not repeat its docstring."""
    if not doc:
        return ["no docstring"]
    found = []
    summary = doc.split("\n\n")[0]
    if not summary.rstrip().endswith((".", ":", "`")):
        found.append("a first sentence that ends")
    if function is None:
        return found
    found += [f"argument `{name}`" for name in undocumented(function, doc, is_method, base)]
    answer = inspect.signature(function).return_annotation
    is_answer = not is_class and answer not in (None, "None", "NoReturn", inspect.Signature.empty)
    if is_answer and not re.search(r"^ *(?:Returns|Yields)\b", doc, re.MULTILINE) and not is_method:
        found.append("Returns")
    if raises(function) and not is_method and "Raises:" not in doc:
        found.append("Raises")
    if not is_method and ">>>" not in doc and "```" not in doc:
        found.append("an example")
    return found


def methods(value):
    """(name, function) of the public methods that a class itself defines."""
    for name, method in vars(value).items():
        function = method.__func__ if isinstance(method, (staticmethod, classmethod)) else method
        is_field = name in getattr(value, "__dataclass_fields__", ())  # whose default may be a function
        if not name.startswith("_") and inspect.isfunction(function) and not is_field:
            yield name, function


@pytest.mark.parametrize("path", sorted({path.split(".")[1] for path in PUBLIC}))
def test_public_names_have_complete_docstrings(path):
    found = {}
    for name, value in PUBLIC.items():
        if name.split(".")[1] != path:
            continue
        doc = inspect.cleandoc(value.__doc__ or "")
        if not inspect.isclass(value):
            found[name] = faults(value, doc)
            continue
        found[name] = faults(vars(value).get("__init__"), doc, is_class=True)
        for key, method in methods(value):
            own = inspect.cleandoc(method.__doc__ or "")
            base = next((vars(each)[key] for each in value.__mro__[1:] if key in vars(each)), None)
            base = getattr(base, "__func__", base)
            if not own and base is not None:
                continue
            found[f"{name}.{key}"] = faults(method, own, is_method=True, base=base if callable(base) else None)
    lacking = [f"{name} lacks {', '.join(each)}" for name, each in found.items() if each]
    assert not lacking, "\n".join(lacking)

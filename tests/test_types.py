"""The public API is annotated with types."""

import inspect
import pathlib
import subprocess
import sys
import textwrap

import pytest

import tfxfer as tx
from tfxfer import models

ROOT = pathlib.Path(tx.__file__).parent
SPECIAL = {"__init__", "__call__", "__getitem__", "__iter__", "__len__"}
# The file name of code that Python generates, where the fields have the types.
WRITTEN_BY_PYTHON = "<string>"


def functions(value):
    """Returns the functions of a class member; for a property, its getter and setter."""
    if isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    if isinstance(value, property):
        return [each for each in (value.fget, value.fset) if each is not None]
    return [inspect.unwrap(value)] if inspect.isfunction(inspect.unwrap(value)) else []


def public():
    """Yields the name and function of everything users call, including methods of bases in this package."""
    for part in tx.__all__:
        module = getattr(tx, part)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if not inspect.isclass(value):
                yield from ((f"{part}.{name}", each) for each in functions(value))
                continue
            for cls in value.__mro__:
                fields = getattr(cls, "__dataclass_fields__", ())  # they declare their types
                for member, attribute in vars(cls).items() if cls.__module__.startswith("tfxfer.") else ():
                    if member not in fields and (not member.startswith("_") or member in SPECIAL):
                        yield from ((f"{part}.{name}.{member}", each) for each in functions(attribute))


def lacking(function):
    """Returns the parameters without an annotation, and `"return"` if the return value has none."""
    signature = inspect.signature(function)
    found = [
        parameter.name
        for i, parameter in enumerate(signature.parameters.values())
        if parameter.annotation is parameter.empty and not (i == 0 and parameter.name in ("self", "cls"))
    ]
    return [*found, *(["return"] if signature.return_annotation is signature.empty else [])]


def test_everything_public_is_annotated():
    found, count = {}, 0
    for name, function in public():
        code = function.__code__
        if code.co_filename == WRITTEN_BY_PYTHON or not code.co_filename.startswith(str(ROOT)):
            continue
        count += 1
        if lacking(function):
            found[name] = lacking(function)
    assert not found
    assert count > 500  # the walk finds them


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (models.TextClassifier, ("labels", "multi_label", "threshold", "pooling", "dropout", "head")),
        (models.TextRegressor, ("num_outputs", "pooling", "dropout", "head", "score_activation")),
        (models.TextEmbedder, ("pooling", "dense", "normalize", "prompts", "similarity_fn_name")),
        (models.Siamese, ("decoder", "chunk_size", "all_layers", "pooling", "prompts")),
        (models.ContrastiveTension, ("pooling", "dense", "prompts")),
        (models.SiameseClassifier, ("labels", "features", "hidden_dims", "dropout", "chunk_size", "pooling")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_from_preset_names_the_arguments_of_the_constructor(kind, names):
    parameters = inspect.signature(kind.from_preset).parameters
    assert {*names, "trainable", "name", "load_weights", "dtype", "backbone_only"} <= set(parameters)
    # All arguments of the class are there, except the parts that come from the preset.
    own = {name for cls in kind.__mro__[: kind.__mro__.index(models.TextTask)] for name in constructor(cls)}
    assert own - {"self", "backbone", "preprocessor", "embedder", "kwargs"} - shared(kind) <= set(parameters)
    assert all(parameters[name].annotation is not inspect.Parameter.empty for name in parameters)
    assert str(parameters[names[0]]).endswith("<the preset's>")


def constructor(cls):
    return inspect.signature(cls.__init__).parameters if "__init__" in vars(cls) else ()


def shared(kind):
    """Returns the arguments of the base classes that a class sets itself."""
    if issubclass(kind, models.SiameseClassifier):
        return {"decoder", "all_layers"}
    if issubclass(kind, models.ContrastiveTension):
        return {"decoder", "chunk_size", "all_layers"}
    return {"num_outputs"} if issubclass(kind, models.TextClassifier) else set()


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "py.typed").read_bytes() == b""
    assert "Typing :: Typed" in (ROOT.parent / "setup.cfg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_users_program_is_checked_against_the_annotations(tmp_path):
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import tfxfer as tx

            model = tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["a", "b"], head="mlp")
            tx.models.TextClassifier.from_preset("all_minilm_l6_v2", labels=["a", "b"], multi_label="yes")
            rows = tx.data.read("a.csv", on_error="ignore")
            count: str = len(rows)
            """
        ),
        encoding="utf-8",
    )
    options = ["--ignore-missing-imports", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)],
        capture_output=True,
        text=True,
        env={"MYPYPATH": str(ROOT.parent), "PATH": ""},
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if "error" in line and "program.py" in line]
    assert [line.split(":")[1] for line in lines] == ["5", "6", "7"], done.stdout + done.stderr

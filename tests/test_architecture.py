"""The table of modules, compared with the imports in the source."""

import ast
import pathlib
import subprocess
import sys
import types

import pytest

import tfxfer

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tfxfer"

# A module imports only from rows above its own, that is, rows with a smaller number.
ROWS = {
    "_version": -1,
    "_quiet": -1,  # before all others: how TensorFlow is imported
    "_program": -1,  # before that: whether TensorFlow is needed at all
    "_collector": -1,  # around all imports
    "_check": -1,  # the wording of errors, which modules of row 0 use
    "_tracing": -0.6,  # used by the next
    "_gradients": -0.5,  # gradients of our own, which arithmetic of row 0 has
    "_tensors": -0.5,
    "_fusing": -0.4,  # uses the former
    "_disk": 0,
    "_processes": 0,
    "_replicas": 0,
    "_html": 0,
    "_ops": 0,
    "_freezable": 0,
    "_cores": 0,
    "_narrow": 0.1,  # searches layers
    "_introduction": 0,
    "_regression": 0,
    "_chain": 0,
    "_schemes": 0,
    "_random": 0,
    "_recompute": 0,
    "_lengths": 0,
    "preprocessing": 0.5,  # `data` uses it to split raw text into words
    "augmentation": 0.7,  # `data` uses it to seed its rows
    "data": 1,
    "losses": 1,
    "metrics": 1,
    "schedules": 1,
    "optimizers": 1,
    "layers": 1,
    "decisions": 1,
    "_neighbours": 1,
    "_maxsim": 2,
    "_parted": 1,
    "_saved_index": 2,
    "_texts": 2,
    "backbones": 2,
    "models": 3,
    "evaluation": 3,  # relies only on what models can do, so callbacks and search may use it
    "freezing": 4,
    "callbacks": 4,
    "search": 4,
    "export": 4.5,  # reads the adapters that `freezing` writes
    "_try": 5.5,
    "tuning": 5,  # its hypermodels freeze layers and train with callbacks
    "_command": 6,
    "__main__": 7,
}

# Which modules may import a package that ties the code to one backend or that is optional.
ALLOWED = {
    "tensorflow": {
        "preprocessing",
        "data",
        "augmentation",
        "export",
        "optimizers",
        "_fusing",
        "_gradients",
        "_quiet",
        "_random",
        "_replicas",
        "_tensors",
        "_tracing",
        "_try",
    },
    "tensorflow_text": {"preprocessing", "data", "augmentation", "export", "_quiet", "_try"},
    "keras_hub": {"preprocessing", "backbones", "models"},
    "keras_nlp": set(),
    "keras_tuner": {"tuning"},
    "jax": {"_gradients", "_processes"},
    "torch": set(),
}

OPTIONAL = ("bm25s", "faiss", "keras_tuner", "matplotlib", "nltk", "pandas", "pyarrow", "tensorboard", "usearch")


# Task classes. Modules above `models` ask a task what it can do and never name its class.
TASKS = {
    "ContrastiveTension",
    "DenoisingAutoencoder",
    "LateInteractionEmbedder",
    "MaskedLanguageModel",
    "MultiTask",
    "MultimodalClassifier",
    "MultimodalRegressor",
    "Reranker",
    "Siamese",
    "SiameseClassifier",
    "SparseEmbedder",
    "TextClassifier",
    "TextEmbedder",
    "TextRegressor",
    "TokenTagger",
}


def module_of(path, package=PACKAGE):
    """The name in the table that a file belongs to: its own, or its folder's."""
    first = path.relative_to(package).parts[0]
    return first.removesuffix(".py")


def package_of(path, package=PACKAGE):
    """The parts of the package that holds a file: what a relative import starts from."""
    return (package.name, *path.relative_to(package).parent.parts)


def imports(path, package=PACKAGE):
    """Yields the line and the absolute dotted name of everything that a file imports, wherever in the file.

    `from a import b` gives `a.b`, because `b` may be a module; `import a.b` gives `a.b`. A plain `import tfxfer` gives
    `tfxfer.b` for each attribute `b` that the file uses.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == package.name:
                    yield from attributes(tree, alias.asname or alias.name, package.name)
                else:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                home = package_of(path, package)
                base = [*home[: len(home) - node.level + 1], *base]
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])


def attributes(tree, variable, package):
    """Yields the line and dotted name of every attribute of the package that is accessed as `variable.name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == variable:
            yield node.lineno, f"{package}.{node.attr}"


def offences(path, package=PACKAGE):
    """Lists the imports of a file that violate the table, one sentence each."""
    importer = module_of(path, package)
    found = []
    for line, name in imports(path, package):
        parts = name.split(".")
        where = f"{path.relative_to(package.parent)}:{line}"
        if parts[0] == package.name:
            imported = parts[1] if len(parts) > 1 else ""
            if importer == "__init__" or imported == importer:
                continue
            if imported not in ROWS:
                found.append(f"{where} imports {name}, which is no module of the table")
            elif importer in ROWS and ROWS[imported] >= ROWS[importer]:
                found.append(f"{where} imports {imported} (row {ROWS[imported]}) into row {ROWS[importer]}")
        elif parts[0] in ALLOWED and importer not in ALLOWED[parts[0]]:
            found.append(f"{where} imports {parts[0]}")
    return found


def sources():
    """All source files of the package."""
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_rows_above_its_own(path):
    assert not offences(path)


def test_every_module_has_a_row():
    modules = {module_of(path) for path in sources()} - {"__init__"}
    assert modules <= set(ROWS), f"no row for {sorted(modules - set(ROWS))}"


def test_a_module_that_became_a_folder_left_no_file_behind():
    files = {path.stem for path in PACKAGE.glob("*.py")}
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert not files & folders


def test_a_folder_holds_private_files_only():
    public = [path for path in PACKAGE.glob("*/**/*.py") if not path.name.startswith("_")]
    # `backbones/families` has one file per family, named after it.
    assert {path.parent.name for path in public} == {"families"}


def test_the_package_exports_its_public_modules_and_the_version_only():
    modules = {module_of(path) for path in sources()} - {"__init__"}
    public = {name for name in modules if not name.startswith("_")}
    names = {name for name in vars(tfxfer) if not name.startswith("_")}
    assert names == public
    assert all(isinstance(getattr(tfxfer, name), types.ModuleType) for name in names)
    assert isinstance(tfxfer.__version__, str)


def test_the_package_imports_where_no_optional_part_is_installed():
    # `sys.modules` proves nothing, because KerasHub itself imports pandas and matplotlib if they are installed.
    hidden = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL!r}))"
    subprocess.run([sys.executable, "-c", f"{hidden}; import tfxfer"], capture_output=True, check=True, cwd=ROOT)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_an_optional_part_is_imported_where_it_is_used_only(path):
    # Only users import `tuning`, but `tfxfer` exports it as a module, so it must import lazily too.
    body = ast.parse(path.read_text(encoding="utf-8")).body
    top = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top for alias in node.names} | {getattr(node, "module", None) or "" for node in top}
    assert not {name.partition(".")[0] for name in names} & set(OPTIONAL)


@pytest.mark.parametrize(
    ("file", "source", "said"),
    [
        ("losses.py", "from tfxfer import models", "imports models (row 3) into row 1"),
        ("losses.py", "import tfxfer.models as m", "imports models (row 3) into row 1"),
        ("losses.py", "from tfxfer.models import TextEmbedder", "imports models (row 3) into row 1"),
        ("losses.py", "import tfxfer\ntfxfer.models.TextEmbedder", "imports models (row 3) into row 1"),
        ("losses.py", "def f():\n    import tfxfer as tx\n    return tx.models", "imports models (row 3) into row 1"),
        ("losses.py", "import tfxfer\nprint(tfxfer.__version__)", "imports tfxfer.__version__, which is no module"),
        ("losses.py", "from tfxfer import __version__", "imports tfxfer.__version__, which is no module"),
        ("losses.py", "from . import metrics", "imports metrics (row 1) into row 1"),
        ("losses.py", "from .metrics import Spearman", "imports metrics (row 1) into row 1"),
        ("data/_readers.py", "from ..models import TextEmbedder", "imports models (row 3) into row 1"),
        ("data/_readers.py", "from .. import export", "imports export (row 4.5) into row 1"),
        ("models/__init__.py", "from .._helpers import x", "no module of the table"),
        ("losses.py", "def f():\n    import tensorflow as tf", "imports tensorflow"),
        ("layers.py", "from tensorflow.keras import layers", "imports tensorflow"),
        ("models/_task.py", "import tensorflow_text", "imports tensorflow_text"),
        ("data/_readers.py", "from keras_hub.models import Backbone", "imports keras_hub"),
        ("evaluation.py", "import keras_tuner", "imports keras_tuner"),
    ],
)
def test_the_walk_sees_a_forbidden_import(tmp_path, file, source, said):
    path = tmp_path / "tfxfer" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    [found] = offences(path, tmp_path / "tfxfer")
    assert said in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("losses.py", "from tfxfer import _ops, _check"),
        ("losses.py", "from tfxfer._check import invalid\nimport keras\nfrom keras import ops"),
        ("data/_readers.py", "from ._rows import Rows\nfrom .. import _check\nimport tensorflow as tf"),
        ("data/__init__.py", "from tfxfer.data._readers import read"),
        ("models.py", "from tfxfer import backbones, layers\nimport keras_hub"),
        ("models/_task.py", "from tfxfer._version import __version__\nfrom tfxfer import backbones"),
        ("export.py", "from tfxfer import models\nimport tensorflow_text"),
    ],
)
def test_the_walk_lets_an_allowed_import_pass(tmp_path, file, source):
    path = tmp_path / "tfxfer" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    assert not offences(path, tmp_path / "tfxfer")


def test_no_module_above_models_names_a_task_class():
    found = []
    for path in PACKAGE.rglob("*.py"):
        if ROWS.get(module_of(path), 9) < ROWS["models"] or module_of(path) == "models":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", None) if isinstance(node, ast.Attribute) else getattr(node, "id", None)
            name = node.name if isinstance(node, ast.alias) else name
            if name in TASKS:
                found.append(f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', '?')} {name}")
    assert not found

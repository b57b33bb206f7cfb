"""A saved search index: atomic replacement, texts and vectors that belong together, errors that name damaged files."""

import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import sys
import threading
import types
import warnings

import numpy as np
import pytest
import tiny

from tfxfer import export, search

RNG = np.random.default_rng(5)
OLD, NEW = ["a", "bb", "ccc"], ["d", "ee", "fff", "gggg"]
# Each precision and its values of `rescore`; test_search.py checks that the list is complete.
RESCORE = {"float32": [None], "int8": [None, "float32"], "binary": [None, "binary", "int8", "float32"]}
SETTINGS = [(precision, rescore) for precision, options in RESCORE.items() for rescore in options]
QUERIES = RNG.normal(size=(20, 8)).astype("float32")


def index_of(texts, dim=8, **settings):
    vectors = np.random.default_rng(len("".join(texts))).normal(size=(len(texts), dim)).astype("float32")
    return search.SemanticIndex(None, texts, embeddings=vectors, **settings)


def loaded(folder):
    return search.SemanticIndex.load(folder, None)


def vectors_in(folder):
    """The arrays of a saved index by name."""
    [file] = folder.glob("*.vectors.npz")
    with np.load(file) as found:
        return dict(found)


def are_alike(index, other):
    """Whether two indexes give bit-identical answers."""
    hits = [each.search(QUERIES, len(index)) for each in (index, other)]
    return hits[0].texts == hits[1].texts and np.array_equal(hits[0].scores, hits[1].scores)


def names(folder):
    """The file names in a directory, with the part that changes with each save replaced by `*`."""
    return sorted(re.sub(r"-[0-9a-f]{16}\.", "-*.", name) for name in os.listdir(folder))


FILES = ["index-*.texts.json", "index-*.vectors.npz", "index.json"]


# === Saving ===


@pytest.mark.parametrize(("precision", "rescore"), SETTINGS)
def test_what_was_saved_is_loaded_to_the_bit(precision, rescore, tmp_path):
    index = index_of([*OLD, "", "\uffff", "ü\n\u2028"], precision=precision, rescore=rescore, multiplier=3)
    index.save(tmp_path / "index")
    again = loaded(tmp_path / "index")
    assert again.texts == index.texts and repr(again) == repr(index) and again.multiplier == 3
    assert are_alike(again, index) and again.nbytes == index.nbytes
    again.save(tmp_path / "again")
    np.testing.assert_equal(vectors_in(tmp_path / "again"), vectors_in(tmp_path / "index"))
    assert names(tmp_path / "index") == FILES
    manifest = json.loads((tmp_path / "index" / "index.json").read_text(encoding="utf-8"))
    assert (manifest["format"], manifest["count"], manifest["embedding_dim"]) == (2, 6, 8)


def test_a_save_takes_the_place_of_the_one_before_and_leaves_other_files(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "index-mine.npz").write_text("mine")
    index_of(OLD, precision="int8").save(tmp_path)
    index_of(NEW).save(str(tmp_path))
    assert loaded(tmp_path).texts == NEW and loaded(tmp_path).precision == "float32"
    assert names(tmp_path) == sorted([*FILES, "README.md", "index-mine.npz"])


def test_modes_follow_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        index_of(OLD).save(tmp_path / "index")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "index").iterdir()} == {0o644}


def steps(patched, target, name, n, *, once):
    """Makes a function fail with a full disk from its n-th call on, or only at it if `once`; returns its calls."""
    function, calls = getattr(target, name), []

    def called(*arguments, **kwargs):
        calls.append(arguments)
        if len(calls) == n or (len(calls) > n and not once):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments, **kwargs)

    patched.setattr(target, name, called)
    return calls


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize(
    ("target", "name"),
    [(np, "savez"), (np.lib.format, "write_array"), (os, "replace"), (os, "fsync"), (os, "open"), (json, "dumps")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_disk_that_is_full_at_any_step_leaves_the_old_index(target, name, once, tmp_path, monkeypatch):
    index_of(OLD).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for n in range(1, 20):
        with monkeypatch.context() as patched:
            calls = steps(patched, target, name, n, once=once)
            try:
                index_of(NEW).save(tmp_path)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
                continue
        if len(calls) < n:
            break
        # The failed step does not affect the result, for example a sync after the last move.
        assert loaded(tmp_path).texts == NEW and names(tmp_path) == FILES
        index_of(OLD).save(tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert n > 1 and loaded(tmp_path).texts == NEW and names(tmp_path) == FILES


def test_an_interrupt_after_the_last_move_leaves_the_new_index(tmp_path, monkeypatch):
    index_of(OLD).save(tmp_path)

    def interrupted(file, target, replace=os.replace):
        replace(file, target)
        if pathlib.Path(target).name == "index.json":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", interrupted)
        index_of(NEW).save(tmp_path)
    assert loaded(tmp_path).texts == NEW and names(tmp_path) == FILES


def in_a_child(run):
    """Runs a function in a child process and returns its exit status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child does not need
        child = os.fork()
    if not child:
        try:
            run()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_save_that_is_killed_leaves_the_old_index_and_its_files_go_later(n, tmp_path):
    index_of(OLD).save(tmp_path)

    def run():
        replace, calls = os.replace, []

        def dies(*arguments):
            calls.append(arguments)
            if len(calls) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*arguments)

        os.replace = dies
        index_of(NEW).save(tmp_path)

    assert in_a_child(run) == signal.SIGKILL
    assert loaded(tmp_path).texts == OLD and len(os.listdir(tmp_path)) > 3
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    index_of(NEW).save(tmp_path)
    assert loaded(tmp_path).texts == NEW and names(tmp_path) == FILES


def test_saves_and_loads_at_the_same_time_give_one_of_the_indexes(tmp_path):
    folder, found, running = tmp_path / "index", [], True
    index_of(OLD).save(folder)
    reference = {tuple(index.texts): index for index in (index_of(OLD), index_of(NEW))}

    def load():
        while running:
            index = loaded(folder)
            found.append(are_alike(index, reference[tuple(index.texts)]))

    def write(texts):
        for _ in range(15):
            index_of(texts).save(folder)

    threads = [threading.Thread(target=load) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(texts,)) for texts in (OLD, NEW)]
    for thread in [*threads, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    running = False
    for thread in threads:
        thread.join()
    assert len(found) > 2 and all(found)
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    index_of(NEW).save(folder)
    assert names(folder) == FILES


# === Damage ===


def rewrite(change):
    """Returns a function that changes `index.json`."""

    def damage(folder):
        path = folder / "index.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest = change(manifest) or manifest
        path.write_text(json.dumps(manifest), encoding="utf-8")

    return damage


def put(key, value):
    return rewrite(lambda manifest: manifest.update({key: value}))


def of_file(pattern, change):
    """Returns a function that changes a file's bytes; `None` removes the file, `"folder"` makes it a directory."""

    def damage(folder):
        [path] = folder.glob(pattern)
        content = change(path.read_bytes())
        path.unlink()
        if content == "folder":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)

    return damage


def flipped(content):
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "missing": lambda content: None,
    "folder": lambda content: "folder",
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"x",
    "flipped": flipped,
    "not UTF-8": lambda content: b"\xff" + content[1:],
}
PARTS = {"index.json": "index.json", "texts": "*.texts.json", "vectors": "*.vectors.npz"}
MANIFESTS = {
    "a list": rewrite(lambda manifest: [manifest]),
    "a number": rewrite(lambda manifest: 3),
    "a newer format": put("format", 4),
    "a wrong format": put("format", "2"),
    "precision": put("precision", "int4"),
    "rescore": put("rescore", "int8"),
    "similarity": put("similarity", "angle"),
    "backend": put("backend", "annoy"),
    "multiplier": put("multiplier", 0),
    "multiplier as text": put("multiplier", "10"),
    "dim": put("embedding_dim", 9),
    "dim of another type": put("embedding_dim", 8.0),
    "count": put("count", 4),
    "query prompt": put("query_prompt", 3),
    "arrays": put("arrays", {}),
    "files": put("files", []),
    "files without vectors": rewrite(lambda manifest: manifest["files"].pop("vectors") and None),
    "file without size": rewrite(lambda manifest: manifest["files"]["texts"].pop("bytes") and None),
    "file elsewhere": rewrite(lambda manifest: manifest["files"]["texts"].update(file="../index.json")),
    "files exchanged": rewrite(lambda m: m["files"].update(texts=m["files"]["vectors"], vectors=m["files"]["texts"])),
    **{
        f"no {key}": rewrite(lambda manifest, key=key: manifest.pop(key) and None)
        for key in ("precision", "similarity", "embedding_dim", "count", "arrays", "files", "format")
    },
    "no rescore": rewrite(lambda manifest: {key: value for key, value in manifest.items() if key != "rescore"}),
}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return tiny.embedder(tmp_path_factory.mktemp("embedder"))


def check(folder, name, embedder):
    """Asserts that both readers raise a `ValueError` that names the file and says what to do."""
    exported = lambda folder: export.saved_model(embedder, folder / "export", index=folder)  # noqa: E731
    for argument, read in (("folder", loaded), ("index", exported)):
        with pytest.raises(ValueError, match=rf"argument `{argument}`.*SemanticIndex\.save") as caught:
            read(folder)
        assert re.search(rf"{re.escape(str(folder))}/{name} ", str(caught.value)), caught.value
        assert "Save the index again" in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_file_is_an_error_that_names_it(part, damage, tmp_path, embedder):
    if (part, damage) == ("index.json", "flipped"):
        pytest.skip("may be another valid file")
    index_of(OLD).save(tmp_path)
    of_file(PARTS[part], DAMAGES[damage])(tmp_path)
    check(tmp_path, PARTS[part].replace("*", r"index-\w+"), embedder)


@pytest.mark.parametrize("damage", MANIFESTS)
def test_wrong_content_of_the_settings_is_an_error(damage, tmp_path, embedder):
    index_of(OLD).save(tmp_path)
    MANIFESTS[damage](tmp_path)
    check(tmp_path, r"(index\.json|index-\w+\.\w+\.\w+)", embedder)


@pytest.mark.parametrize("part", ["texts", "vectors"])
def test_the_texts_of_one_save_and_the_vectors_of_another_are_an_error(part, tmp_path, embedder):
    index_of(OLD).save(tmp_path / "one")
    index_of(["x", "yy", "zz"]).save(tmp_path / "other")
    [here], [there] = (list((tmp_path / name).glob(PARTS[part])) for name in ("one", "other"))
    shutil.copy(there, here)
    check(tmp_path / "one", here.name, embedder)
    shutil.copytree(tmp_path / "other", tmp_path / "both")
    shutil.copy(tmp_path / "one" / "index.json", tmp_path / "both")
    check(tmp_path / "both", r"index-\w+\.texts\.json", embedder)


# === The previous format ===


def save_as_before(folder, texts, vectors):
    folder.mkdir(exist_ok=True)
    settings = {"precision": "float32", "rescore": None, "multiplier": 10, "similarity": "cosine", "backend": "exact"}
    settings |= {"factory": None, "query_prompt": None, "document_prompt": None}
    settings |= {"embedding_dim": 8, "texts": texts}
    (folder / "index.json").write_text(json.dumps(settings), encoding="utf-8")
    np.savez(folder / "index.npz", **({} if vectors is None else {"searched": vectors}))


def test_an_index_of_the_first_format_is_read_and_replaced(tmp_path):
    index = index_of(OLD)
    index.save(tmp_path / "new")
    save_as_before(tmp_path, OLD, vectors_in(tmp_path / "new")["searched"])
    shutil.rmtree(tmp_path / "new")
    again = loaded(tmp_path)
    assert are_alike(again, index) and again.texts == OLD
    index_of(NEW).save(tmp_path)
    assert loaded(tmp_path).texts == NEW and names(tmp_path) == FILES


@pytest.mark.parametrize(
    ("texts", "vectors", "name"),
    [
        (OLD, RNG.normal(size=(2, 8)).astype("float32"), "index.npz"),
        (OLD, RNG.normal(size=(4, 8)).astype("float32"), "index.npz"),
        (OLD, RNG.normal(size=(3, 7)).astype("float32"), "index.npz"),
        (OLD, RNG.normal(size=(3, 8)), "index.npz"),
        (OLD, None, "index.npz"),
        ([], RNG.normal(size=(0, 8)).astype("float32"), "index.json"),
        (["a", None, "c"], RNG.normal(size=(3, 8)).astype("float32"), "index.json"),
        ("abc", RNG.normal(size=(3, 8)).astype("float32"), "index.json"),
    ],
    ids=["fewer", "more", "dim", "dtype", "none", "no texts", "no text", "one text"],
)
def test_counts_of_the_first_format_are_checked(texts, vectors, name, tmp_path, embedder):
    save_as_before(tmp_path, texts, vectors)
    check(tmp_path, re.escape(name), embedder)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["index.json", "index.npz"])
def test_damage_of_the_first_format_is_an_error(name, damage, tmp_path, embedder):
    if damage in ("flipped", "longer") or (name, damage) == ("index.npz", "not UTF-8"):
        pytest.skip("this format cannot tell it from another index")
    save_as_before(tmp_path, OLD, RNG.normal(size=(3, 8)).astype("float32"))
    of_file(name, DAMAGES[damage])(tmp_path)
    check(tmp_path, re.escape(name), embedder)


# === faiss ===


class FakeIndex:
    """The part of a faiss index that the package uses."""

    is_trained = True

    def __init__(self, d):
        self.d, self.vectors = d, np.zeros((0, d), "float32")

    @property
    def ntotal(self):
        return len(self.vectors)

    def add(self, vectors):
        self.vectors = np.concatenate([self.vectors, vectors])


@pytest.fixture(params=["real", "fake"])
def faiss(request, monkeypatch):
    if request.param == "real":
        return pytest.importorskip("faiss", reason="package faiss-cpu is not installed")

    def write(index, path):
        with open(path, "wb") as file:
            np.save(file, index.vectors)

    def read(path):
        vectors = np.load(path)
        index = FakeIndex(vectors.shape[1])
        index.add(vectors)
        return index

    made = types.ModuleType("faiss")
    made.METRIC_L2, made.METRIC_INNER_PRODUCT = 1, 0
    made.index_factory = lambda dim, factory, metric: FakeIndex(dim)
    made.write_index, made.read_index = write, read
    monkeypatch.setitem(sys.modules, "faiss", made)
    return made


@pytest.mark.parametrize("damage", ["none", *DAMAGES])
def test_faiss_keeps_its_own_file_which_is_tied_as_well(faiss, damage, tmp_path):
    index_of(OLD).save(tmp_path)
    index_of(NEW, backend="faiss").save(tmp_path)
    assert names(tmp_path) == sorted([*FILES, "index-*.faiss"])
    if damage != "none":
        of_file("index-*.faiss", DAMAGES[damage])(tmp_path)
        with pytest.raises(ValueError, match=r"`folder`.*index-\w+\.faiss .*Save the index again"):
            loaded(tmp_path)
        return
    again = loaded(tmp_path)
    again.save(tmp_path / "again")
    [file] = (tmp_path / "again").glob("*.faiss")
    assert again.texts == NEW and faiss.read_index(str(file)).ntotal == 4
    shutil.rmtree(tmp_path / "again")
    index_of(OLD).save(tmp_path)
    assert names(tmp_path) == FILES


def test_faiss_with_more_vectors_than_texts_is_an_error(faiss, tmp_path):
    index_of(NEW, backend="faiss").save(tmp_path / "more")
    index_of(OLD, backend="faiss").save(tmp_path / "index")
    index_of(OLD, dim=9, backend="faiss").save(tmp_path / "wide")
    [target] = (tmp_path / "index").glob("*.faiss")
    for other, said in (("more", "holds 4 vectors for 3 texts"), ("wide", "9 components, not 8")):
        [source] = (tmp_path / other).glob("*.faiss")
        shutil.copy(source, target)
        facts = {
            "file": target.name,
            "bytes": target.stat().st_size,
            "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        }
        rewrite(lambda manifest, facts=facts: manifest["files"].update(faiss=facts))(tmp_path / "index")
        with pytest.raises(ValueError, match=said):
            loaded(tmp_path / "index")

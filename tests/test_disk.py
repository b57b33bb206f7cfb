"""Files and folders that are replaced as a whole or not at all, local paths, and errors that name a file."""

import errno
import json
import os
import pathlib
import signal
import stat
import threading
import time
import warnings

import pytest

# Private: all writers share it, and no public result shows at which of its steps a write fails.
from tfxfer import _disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def contents(folder):
    """All files in a folder by relative path, hidden ones included."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = pathlib.Path(root, name)
            found[str(path.relative_to(folder))] = path.read_text()
    return found


# === Paths ===


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("runs/a", "runs/a"),
        (pathlib.Path("runs") / "a", "runs/a"),
        (".", "."),
        ("C:/models", "C:/models"),
        ("C:\\models", "C:\\models"),
        ("a:b/c", "a:b/c"),
        ("file:///tmp/my%20model", "/tmp/my model"),
        ("FILE://localhost/tmp/model", "/tmp/model"),
        (pathlib.Path("file:///tmp/model"), "/tmp/model"),
    ],
)
def test_local_paths_and_file_urls_are_taken(given, expected):
    assert _disk.local_path("folder", given) == pathlib.Path(expected)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs://bucket/model", "gcloud storage cp -r"),
        ("s3://bucket/model", "aws s3 cp --recursive"),
        ("S3A://bucket/model", "aws s3 cp --recursive"),
        ("abfss://box@account/model", "azcopy"),
        ("hdfs://node/model", "hdfs dfs -put"),
        ("hf://user/model", "hf upload"),
        ("memory://model", "the tool of that service"),
        ("https://example.com/model", "the tool of that service"),
        ("file://host/model", "three slashes"),
    ],
)
@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_urls_are_refused_with_what_to_do(url, said, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if url.startswith("file:") and kind is pathlib.Path:
        pytest.skip("pathlib makes a path of it")
    with pytest.raises(ValueError, match=rf"`folder`.*on the local disk.*{url[:2]}.*{said}"):
        _disk.local_path("folder", kind(url), kind="folder")
    assert not os.listdir(tmp_path)


def test_what_is_no_path_or_is_there_as_something_else_is_an_error(tmp_path):
    for wrong in ("", None, 3, b"folder", "a\0b"):
        with pytest.raises(ValueError, match=r"argument `folder`\. Expected the path of a folder"):
            _disk.local_path("folder", wrong, kind="folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="There is a file of this name"):
        _disk.local_path("folder", tmp_path / "file", kind="folder")
    with pytest.raises(ValueError, match="There is a folder of this name"):
        _disk.local_path("path", tmp_path, kind="file")


# === Files ===


def test_a_file_is_replaced_with_its_folders_made_and_its_mode_by_the_umask(tmp_path):
    path = tmp_path / "a" / "b.json"
    before = os.umask(0o027)
    try:
        _disk.write_json(path, {"ü": 1})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        with _disk.replacing(tmp_path / "c") as partial:
            partial.write_text("c")
        assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o640
        with _disk.replacing_folder(tmp_path / "new") as folder:
            (folder / "x").write_text("x")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o750
    finally:
        os.umask(before)
    assert path.read_text(encoding="utf-8") == '{\n  "ü": 1\n}\n'
    assert os.listdir(tmp_path / "a") == ["b.json"]
    with pytest.raises(ValueError, match="JSON compliant"):
        _disk.write_json(path, float("nan"))
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": 1}


def test_a_link_stays_one_and_what_it_links_to_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    (tmp_path / "folder").symlink_to(tmp_path / "far")
    _disk.write_text(tmp_path / "link", "new")
    with _disk.replacing_folder(tmp_path / "folder") as staged:
        (staged / "other").write_text("more")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "folder").is_symlink()
    assert contents(tmp_path / "far") == {"file": "new", "other": "more"}


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace", "interrupt"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "file"
    _disk.write_text(path, "old")
    with monkeypatch.context() as patched, pytest.raises((OSError, KeyboardInterrupt)):
        if step in ("fsync", "replace"):
            patched.setattr(os, step, full)
        if step == "open":
            patched.setattr("builtins.open", full)
        with _disk.writing(path) as file:
            file.write(b"new")
            if step == "write":
                full()
            if step == "interrupt":
                raise KeyboardInterrupt
    assert contents(tmp_path) == {"file": "old"}


def test_a_disk_that_knows_no_fsync_is_no_error_and_one_that_fails_is(tmp_path, monkeypatch):
    def fails(descriptor, code=errno.EINVAL):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    _disk.write_text(tmp_path / "file", "new")
    monkeypatch.setattr(os, "fsync", lambda descriptor: fails(descriptor, errno.EIO))
    with pytest.raises(OSError, match="put/output"):
        _disk.write_text(tmp_path / "file", "newer")
    assert contents(tmp_path) == {"file": "new"}


def test_what_killed_processes_left_goes_once_it_is_old(tmp_path):
    names = ["file.12ab.part", "file.34cd.part", "other.56ef.part", "file.backup.part", "file.78.parts"]
    for name in names:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (0, 0) if name != "file.34cd.part" else None)
    _disk.write_text(tmp_path / "file", "new")
    assert sorted(contents(tmp_path)) == sorted(["file", *names[1:]])
    _disk.remove_parts(tmp_path, "*", age=0)
    assert sorted(contents(tmp_path)) == ["file", "file.78.parts", "file.backup.part"]


def test_readers_never_see_a_part_of_a_file_and_writers_do_not_collide(tmp_path):
    path, seen, running = tmp_path / "file", set(), True

    def read():
        while running:
            seen.add(path.read_text())

    _disk.write_text(path, "0" * 9999)
    reader = threading.Thread(target=read)
    writers = [
        threading.Thread(target=lambda i=i: [_disk.write_text(path, str(i) * 9999) for _ in range(20)])
        for i in range(1, 5)
    ]
    for thread in [reader, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    running = False
    reader.join()
    assert seen <= {str(i) * 9999 for i in range(5)} and os.listdir(tmp_path) == ["file"]


# === Folders ===

OLD = {"config": "old", "weights": "old", "1_Pooling/config": "old"}
NEW = {"config": "new", "weights": "new", "1_Pooling/config": "new", "2_Dense/config": "new"}
OTHERS = {"README": "mine", ".git/head": "mine", "1_Pooling/notes": "mine"}


def fill(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def save(folder, files=NEW):
    with _disk.replacing_folder(folder) as staged:
        assert not os.listdir(staged)
        fill(staged, files)


def test_a_new_folder_appears_in_one_step(tmp_path):
    folder = tmp_path / "a" / "model"
    with _disk.replacing_folder(folder) as staged:
        fill(staged, NEW)
        assert not folder.exists()
    assert contents(tmp_path / "a") == {f"model/{name}": text for name, text in NEW.items()}


def test_the_files_of_a_folder_are_replaced_and_others_stay(tmp_path, monkeypatch):
    fill(tmp_path, {**OLD, **OTHERS})
    before = tmp_path.stat().st_ino
    monkeypatch.chdir(tmp_path)
    save(pathlib.Path("."))
    assert contents(tmp_path) == {**NEW, **OTHERS}
    assert tmp_path.stat().st_ino == before, "the folder is the same: it may be a mount point"


def test_a_folder_that_is_there_and_empty_keeps_its_mode(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir(mode=0o700)
    save(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and contents(folder) == NEW


class Disk:
    """A disk that is full from the n-th call of some functions of `os` on, or only at that call."""

    def __init__(self, patched, names, n, *, once):
        self.calls, self.n, self.once = 0, n, once
        for name in names:
            patched.setattr(os, name, self.counting(getattr(os, name)))

    def counting(self, function):
        def called(*arguments, **kwargs):
            self.calls += 1
            if self.calls == self.n or (self.calls > self.n and not self.once):
                full()
            return function(*arguments, **kwargs)

        return called


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("names", [("replace",), ("fsync",), ("mkdir",), ("replace", "fsync", "mkdir")])
def test_a_disk_that_is_full_at_any_step_leaves_the_old_folder(names, once, tmp_path, monkeypatch):
    failed = 0
    for n in range(1, 99):
        folder = tmp_path / str(n)
        fill(folder, {**OLD, **OTHERS})
        with monkeypatch.context() as patched:
            disk, failed_now = Disk(patched, names, n, once=once), False
            try:
                save(folder)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                failed, failed_now = failed + 1, True
                assert sorted(os.listdir(folder)) == [".git", "1_Pooling", "README", "config", "weights"]
        assert contents(folder) in ({**OLD, **OTHERS}, {**NEW, **OTHERS})
        # A failure after the last file was replaced does no harm.
        assert (contents(folder)["config"] == "old") == failed_now
        if disk.calls < n:
            break
    assert failed > 1


def test_a_failure_while_writing_a_folder_leaves_the_old_one(tmp_path):
    fill(tmp_path / "model", OLD)
    for folder in (tmp_path / "model", tmp_path / "none"):
        with pytest.raises(KeyboardInterrupt), _disk.replacing_folder(folder) as staged:
            (staged / "config").write_text("half")
            raise KeyboardInterrupt
    assert contents(tmp_path) == {f"model/{name}": text for name, text in OLD.items()}
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_where_a_file_is_to_be_is_an_error_that_changes_nothing(tmp_path):
    fill(tmp_path, {"config": "old", "weights/mine": "mine"})
    with pytest.raises(IsADirectoryError, match="weights"):
        save(tmp_path)
    assert contents(tmp_path) == {"config": "old", "weights/mine": "mine"}


def test_where_there_are_no_hard_links_the_old_files_are_copied(tmp_path, monkeypatch):
    fill(tmp_path, OLD)
    monkeypatch.setattr(os, "link", full)
    with monkeypatch.context() as patched:
        Disk(patched, ("replace",), 3, once=False)
        with pytest.raises(OSError, match="No space"):
            save(tmp_path)
    assert contents(tmp_path) == OLD
    save(tmp_path)
    assert contents(tmp_path) == NEW


def save_and_die(folder, n):
    """Saves in a child process that is killed at its n-th call of `os.replace`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which the child does not need
        child = os.fork()
    if not child:
        replace, calls = os.replace, []

        def dies(*arguments):
            calls.append(arguments)
            if len(calls) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*arguments)

        os.replace = dies
        save(folder)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_process_killed_at_any_step_leaves_one_of_the_two_folders(n, tmp_path):
    fill(tmp_path, {**OLD, **OTHERS})
    assert save_and_die(tmp_path, n) == signal.SIGKILL
    _disk.settle(tmp_path)
    visible = {name: text for name, text in contents(tmp_path).items() if ".part/" not in name and "/old/" not in name}
    # Before the first move, the folder is the old one; after it, the new one.
    assert visible == {**(OLD if n == 1 else NEW), **OTHERS}
    for path in tmp_path.iterdir():
        if path.suffix in (".part", ".commit"):
            os.utime(path, (0, 0))
    save(tmp_path)
    assert contents(tmp_path) == {**NEW, **OTHERS}


def test_a_reader_that_finishes_a_living_writers_work_does_not_disturb_it(tmp_path, monkeypatch):
    fill(tmp_path, OLD)
    replace, calls = os.replace, []

    def replace_helped(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            monkeypatch.setattr(os, "replace", replace)
            _disk.settle(tmp_path)
        replace(*arguments)

    monkeypatch.setattr(os, "replace", replace_helped)
    save(tmp_path)
    assert len(calls) == 3 and contents(tmp_path) == NEW


def test_settling_a_folder_that_is_settled_or_not_there_does_nothing(tmp_path):
    fill(tmp_path, OLD)
    _disk.settle(tmp_path)
    _disk.settle(tmp_path / "none")
    assert contents(tmp_path) == OLD


# === Reading ===


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        ("folder", "is a folder, not a file"),
        (b"", "is empty"),
        (b'{"a": 1', "is not valid JSON"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[" * 100_000, "cannot be read"),
        (b"[1]", "holds no object"),
        (b"{}", "has no 'a'"),
        (b'{"a": "1"}', "has a wrong value of 'a'"),
        (b'{"a": true}', "has a wrong value of 'a'"),
    ],
)
def test_json_that_cannot_be_read_is_an_error_with_its_path(content, said, tmp_path):
    # The path is too long for the part of an error that shows a value.
    file = tmp_path / ("d" * 100) / ("e" * 100) / "file.json"
    file.parent.mkdir(parents=True)
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    reader = _disk.Reader("folder", file.parent, "a folder of ours", "Write it again.")
    with pytest.raises(ValueError, match="Expected a folder of ours") as caught:
        reader.json(file, {"a": int})
    assert f"{file} {said}" in str(caught.value) and "Write it again." in str(caught.value)


def test_json_that_can_be_read_is_returned(tmp_path):
    reader = _disk.Reader("folder", tmp_path, "a folder of ours", "Write it again.")
    _disk.write_json(tmp_path / "file", {"a": None, "b": [1]})
    assert reader.json(tmp_path / "file", {"a": (int, type(None)), "b": list}) == {"a": None, "b": [1]}
    before = time.time()
    _disk.write_json(tmp_path / "file", [1])
    assert reader.json(tmp_path / "file") == [1] and (tmp_path / "file").stat().st_mtime >= before - 1

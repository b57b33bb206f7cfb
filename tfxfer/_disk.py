"""Files on the local disk: replaced atomically, and read with errors that name them.

New content has a temporary name (`<name>.<random hex>.part`) until it is complete and on disk; only then does it
replace the old one. If writing fails, for instance on a full disk, the old file or directory is unchanged and the
partial one is removed. The modes of new files follow the umask.
"""

import contextlib
import errno
import fnmatch
import glob
import json
import os
import pathlib
import re
import secrets
import shutil
import time
import urllib.request

from tfxfer import _check

# Seconds without a write after which a partial file counts as abandoned by a killed process.
DEAD = 3600
_PART, _COMMIT = ".part", ".commit"
_PARTIAL = re.compile(r"(.*)\.[0-9a-f]+\.part", re.DOTALL)
_NEW, _OLD = "new", "old"  # in the directory of a commit
# A single letter is a Windows drive; `pathlib` turns two slashes into one.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_COPY = {
    "gs": "gcloud storage cp -r",
    "s3": "aws s3 cp --recursive",
    "s3a": "aws s3 cp --recursive",
    "s3n": "aws s3 cp --recursive",
    "az": "azcopy copy --recursive",
    "abfs": "azcopy copy --recursive",
    "abfss": "azcopy copy --recursive",
    "hdfs": "hdfs dfs -put",
    "hf": "hf upload",
}
# Errors of a file system that does not support the operation.
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, getattr(errno, "ENOTSUP", errno.EINVAL)}


# === Paths ===


def local_path(argument, path, *, kind=None):
    """Returns a path argument as a `pathlib.Path` on the local disk.

    Args:
        argument: string. The argument's name, for errors.
        path: string or path. `file://` URLs are accepted.
        kind: `"file"` or `"folder"`: what may already exist there. `None` for either.

    Raises:
        ValueError: if `path` is not a path, is empty, is another URL, or exists and is of the other kind.

    Example:

    >>> local_path("folder", "file:///tmp/my%20index").name
    'my index'
    >>> local_path("folder", "gs://bucket/index", kind="folder")
    Traceback (most recent call last):
      ...
    ValueError: Invalid value for argument `folder`. Expected a path on the local disk. Received:
    folder='gs://bucket/index'. Use a local folder, and copy it with a tool such as `gcloud storage cp -r`.
    """
    expected = {None: "a path", "file": "the path of a file", "folder": "the path of a folder"}[kind]
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise _check.invalid(argument, expected, path)
    url = _URL.match(text)
    if url:
        text = _of_url(argument, url[1].lower(), text, kind or "path")
    found = pathlib.Path(text)
    if kind == "file" and found.is_dir():
        raise _check.invalid(argument, expected, text, "There is a folder of this name.")
    if kind == "folder" and found.exists() and not found.is_dir():
        raise _check.invalid(argument, expected, text, "There is a file of this name.")
    return found


def _of_url(argument, scheme, url, kind):
    """Returns the path of a `file:` URL; raises for any other."""
    expected = "a path on the local disk"
    if scheme != "file":
        tool = f"a tool such as `{_COPY[scheme]}`" if scheme in _COPY else "the tool of that service"
        raise _check.invalid(argument, expected, url, f"Use a local {kind}, and copy it with {tool}.")
    host, path = "", url.partition(":")[2]
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        path = f"{slash}{path}"
    if host not in ("", "localhost") or not path:
        raise _check.invalid(argument, expected, url, "A `file:` URL has three slashes: `file:///home/me/model`.")
    return urllib.request.url2pathname(path)


def _target(path):
    """Returns the path, or the target of its link, so that a link stays a link."""
    return pathlib.Path(os.path.realpath(path)) if os.path.islink(path) else pathlib.Path(path)


# === Files ===


@contextlib.contextmanager
def replacing(path):
    """Yields the path of a file to write; it replaces `path` once it is complete and on disk.

    At any time, `path` is either the old file or the new one. Missing parent directories are created.

    Args:
        path: path of a file.
    """
    path = _target(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_parts(path.parent, glob.escape(path.name))
    partial = part(path.parent, path.name)
    try:
        partial.open("xb").close()
        mode = partial.stat().st_mode
        yield partial
        _set_mode(partial, mode)
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        _remove(partial)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def writing(path):
    """Like `replacing`, but yields a binary file open for writing."""
    with replacing(path) as partial, open(partial, "wb") as file:
        yield file


def write_text(path, text):
    """Replaces a file with a text, in UTF-8 and with the text's own line endings."""
    with writing(path) as file:
        file.write(text.encode())


def write_json(path, value):
    """Replaces a file with a value as strict JSON, indented, in UTF-8."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def part(folder, name):
    """Returns a temporary path in a directory for the future `name`; no other process uses it."""
    return folder / f"{name}.{secrets.token_hex(8)}{_PART}"


def _set_mode(file, mode):
    """Gives a file the mode of any new file: some libraries write to a temporary file that only the user can read."""
    if os.stat(file).st_mode != mode:
        os.chmod(file, mode)


def remove_parts(folder, name, *, age=DEAD):
    """Removes the partial files and directories of `name` that killed processes have left in a directory.

    They only take up space; nothing depends on their removal.

    Args:
        folder: path.
        name: string. The name of the file or directory, or an `fnmatch` pattern.
        age: float. Seconds since the last write after which a partial file counts as abandoned.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            found = _PARTIAL.fullmatch(entry.name)
            if found and fnmatch.fnmatchcase(found[1], name):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime >= age:
                    _remove(entry.path)


def _remove(path):
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def sync(path):
    """Waits until a file, or everything in a directory, is on disk."""
    if not os.path.isdir(path):
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        finally:
            os.close(descriptor)
        return
    for folder, _, files in os.walk(path):
        for name in files:
            sync(os.path.join(folder, name))
        _sync_folder(folder)


def _sync_folder(folder):
    """Flushes the names in a directory to the disk, if the system can; the names are already correct."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# === Folders ===


@contextlib.contextmanager
def temporary_folder(path):
    """Creates a directory and yields its path; whatever is left of it at the end is removed."""
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        _remove(path)


@contextlib.contextmanager
def replacing_folder(folder):
    """Yields an empty directory to write to; then moves its files into `folder`, either all of them or none.

    A new directory appears atomically. In an existing one, files of the same names (including those in subdirectories)
    are replaced and all others are kept; the directory itself is not renamed, so it may be a mount point or the current
    directory. If a file cannot be replaced, those already replaced are restored. A process killed at that moment leaves
    the complete new files in `folder`, some of them in a subdirectory `.<random hex>.commit`: `settle` moves the rest,
    and so does the next `replacing_folder`.

    Args:
        folder: path of a directory; created if it is missing.
    """
    folder = _target(folder)
    if not folder.exists():
        remove_parts(folder.parent, glob.escape(folder.name))
        with _staged(part(folder.parent, folder.name)) as staged:
            yield staged / _NEW
            _finish(staged)
            os.replace(staged / _NEW, folder)
        _sync_folder(folder.parent)
        return
    settle(folder)
    remove_parts(folder, "")
    with _staged(part(folder, "")) as staged:
        yield staged / _NEW
        _finish(staged)
        _commit(staged, folder)


@contextlib.contextmanager
def _staged(path):
    """Creates a temporary directory that contains an empty one for the new files."""
    with temporary_folder(path) as staged:
        (staged / _NEW).mkdir()
        yield staged


def _finish(staged):
    """Flushes the new files to the disk, with the mode of new files."""
    probe = staged / "mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for name in _files(staged / _NEW):
        if not (staged / _NEW / name).is_symlink():
            _set_mode(staged / _NEW / name, mode)
    sync(staged / _NEW)


def _commit(staged, folder):
    """Moves the files of `staged / "new"` into `folder`, or none of them."""
    names = _files(staged / _NEW)
    for name in names:
        if (folder / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder is in the place of a new file", str(folder / name))
    commit = staged.with_suffix(_COMMIT)
    replaced, made = [], {parent for name in names for parent in name.parents if not (folder / parent).exists()}
    try:
        # From here on, `settle` would finish the commit.
        os.replace(staged, commit)
        _sync_folder(folder)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _keep(folder / name, commit / _OLD / name)
            replaced.append(name)
            _move(commit / _NEW / name, folder / name)
    except BaseException:
        for name in reversed(replaced):
            _put_back(folder / name, commit / _OLD / name, is_replaced=not (commit / _NEW / name).exists())
        for parent in sorted(made, reverse=True):
            with contextlib.suppress(OSError):
                (folder / parent).rmdir()
        # `settle` ignores its former name; its creator removes it.
        with contextlib.suppress(OSError):
            os.rename(commit, staged)
        raise
    _sync_folder(folder)
    _remove(commit)


def _move(file, target):
    """Moves a file of a commit into its place, unless another process has already done so."""
    try:
        os.replace(file, target)
    except FileNotFoundError:
        if file.exists() or not target.exists():
            raise


def _files(folder):
    """Returns the files in a directory and its subdirectories, as sorted relative paths."""
    found = [pathlib.Path(root, name) for root, _, names in os.walk(folder) for name in names]
    return sorted(path.relative_to(folder) for path in found)


def _keep(file, copy):
    """Keeps the old file under a second name; this takes no space if the file system supports hard links."""
    if os.path.lexists(file):
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, copy, follow_symlinks=False)
        except (OSError, NotImplementedError):
            shutil.copy2(file, copy, follow_symlinks=False)


def _put_back(file, copy, *, is_replaced):
    with contextlib.suppress(OSError):
        if is_replaced:
            file.unlink(missing_ok=True)
            if os.path.lexists(copy):
                os.rename(copy, file)


def settle(folder):
    """Finishes a move into `folder` that a killed process began; readers of several files call it first.

    It does nothing if no move was begun, or if the directory is read-only.
    """
    folder = pathlib.Path(folder)
    with contextlib.suppress(OSError):
        for commit in sorted(folder.glob(f".*{_COMMIT}"), key=lambda path: path.stat().st_mtime):
            for name in _files(commit / _NEW):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                _move(commit / _NEW / name, folder / name)
            if time.time() - commit.stat().st_mtime >= DEAD:
                _remove(commit)


# === Reading ===


class Reader:
    """Reads files that an argument names; any problem with a file is a `ValueError` with its path.

    Args:
        argument: string. The argument's name.
        path: its value, a path.
        expected: string. The expected value, e.g. `"a folder that `SemanticIndex.save` wrote"`.
        remedy: string. How to fix a damaged file.
    """

    def __init__(self, argument, path, expected, remedy):
        self.argument, self.path, self.expected, self.remedy = argument, path, expected, remedy

    def error(self, file, reason):
        """Returns the `ValueError` for a file; `reason` follows its path, e.g. `"is empty"`."""
        return _check.invalid(self.argument, self.expected, str(self.path), f"{file} {reason}. {self.remedy}")

    @contextlib.contextmanager
    def guard(self, file):
        """Turns any exception while reading a file into the error for it: parsers raise many kinds."""
        try:
            yield
        except FileNotFoundError as error:
            raise self.error(file, "is missing") from error
        except IsADirectoryError as error:
            raise self.error(file, "is a folder, not a file") from error
        except UnicodeDecodeError as error:
            raise self.error(file, f"is not UTF-8 ({error.reason} at byte {error.start})") from error
        except json.JSONDecodeError as error:
            raise self.error(file, f"is not valid JSON ({error})") from error
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise self.error(file, f"cannot be read ({reason})") from error

    def check_file(self, file):
        """Raises unless there is a non-empty file."""
        with self.guard(file):
            size = os.stat(file).st_size
            if os.path.isdir(file):
                raise IsADirectoryError(file)
        if not size:
            raise self.error(file, "is empty")

    def bytes(self, file):
        """Returns the content of a file; an empty file is an error."""
        self.check_file(file)
        with self.guard(file):
            return pathlib.Path(file).read_bytes()

    def text(self, file):
        """Returns the content of a UTF-8 text file; an empty file is an error."""
        content = self.bytes(file)
        with self.guard(file):
            return content.decode()

    def json(self, file, keys=None):
        """Returns the JSON in a file.

        Args:
            file: path.
            keys: dict of the required keys of an object to the Python types of their values; `None` for any value.
        """
        text = self.text(file)
        with self.guard(file):
            value = json.loads(text)
        if keys is not None:
            self.check_keys(file, value, keys)
        return value

    def check_keys(self, file, value, keys, where=""):
        """Raises unless `value` is a dict with these keys and types of values (a bool is not a number)."""
        if not isinstance(value, dict):
            raise self.error(file, f"holds no object{where} but {_shown(value)}")
        for key, kinds in keys.items():
            if key not in value:
                raise self.error(file, f"has no {key!r}{where}")
            kinds = kinds if isinstance(kinds, tuple) else (kinds,)
            if not isinstance(value[key], kinds) or (isinstance(value[key], bool) and bool not in kinds):
                raise self.error(file, f"has a wrong value of {key!r}{where}, {_shown(value[key])}")


def _shown(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."

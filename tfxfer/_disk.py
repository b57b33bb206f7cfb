"""Files on the local disk: replaced as a whole or not at all, and read with errors that name them.

What is written has a name of its own (`<name>.<random hex>.part`) until it is complete and on the disk; only then does
it take the place of what was there. A failure, a full disk included, leaves the old file or folder as it was and
removes the partial one. The modes of new files follow the umask.
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

# Seconds without a write after which something partial counts as left behind by a process that was killed.
DEAD = 3600
_PART, _COMMIT = ".part", ".commit"
_PARTIAL = re.compile(r"(.*)\.[0-9a-f]+\.part", re.DOTALL)
_NEW, _OLD = "new", "old"  # in the folder of a commit
# A single letter is a Windows drive; `pathlib` makes one slash of two.
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
# What a file system says that cannot do it at all.
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, getattr(errno, "ENOTSUP", errno.EINVAL)}


# === Paths ===


def local_path(argument, path, *, kind=None):
    """Returns a path argument as a `pathlib.Path` on the local disk.

    Args:
        argument: string. The argument's name, for errors.
        path: string or path. `file://` URLs are accepted.
        kind: `"file"` or `"folder"`: what may be there already. `None` for either.

    Raises:
        ValueError: for something that is no path, an empty one, another URL, or what is there of the other kind.

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
    """The path itself, or what it links to: a link stays one."""
    return pathlib.Path(os.path.realpath(path)) if os.path.islink(path) else pathlib.Path(path)


# === Files ===


@contextlib.contextmanager
def replacing(path):
    """Yields the path of a file to be written; it takes the place of `path` once it is complete and on the disk.

    At every moment `path` is either the old file or the new one. Folders on the way are made.

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
    """Yields a binary file, open for writing; otherwise as `replacing`."""
    with replacing(path) as partial, open(partial, "wb") as file:
        yield file


def write_text(path, text):
    """Replaces a file by a text, in UTF-8 and with the line ends that it has."""
    with writing(path) as file:
        file.write(text.encode())


def write_json(path, value):
    """Replaces a file by a value as strict JSON, indented, in UTF-8."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def part(folder, name):
    """Returns a path in a folder for what is to become `name` there; no other process has it."""
    return folder / f"{name}.{secrets.token_hex(8)}{_PART}"


def _set_mode(file, mode):
    """Gives a file the mode of any new file: some libraries write into a temporary one that is their user's alone."""
    if os.stat(file).st_mode != mode:
        os.chmod(file, mode)


def remove_parts(folder, name, *, age=DEAD):
    """Removes the partial files and folders that killed processes have left of writing `name` in a folder.

    Nothing depends on it: they only take room.

    Args:
        folder: path.
        name: string. The file's or folder's name, or a pattern of `fnmatch`.
        age: float. Seconds since the last write, from which on it is taken for left behind.
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
    """Waits until a file, or all that is in a folder, is on the disk."""
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
    """Has the names in a folder on the disk, as far as the system can: by now they are what they should be."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# === Folders ===


@contextlib.contextmanager
def temporary_folder(path):
    """Makes a folder and yields its path; what is still there of it at the end is removed."""
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        _remove(path)


@contextlib.contextmanager
def replacing_folder(folder):
    """Yields an empty folder to be written; its files then take their places in `folder`, all of them or none.

    A folder that is not there yet appears in one step. In one that is there, files of the same names (those in
    subfolders included) are replaced and all others stay; it is not renamed itself, and so may be a mount point or the
    current directory. Where a file cannot be replaced, those already replaced are put back. A process that is killed
    just then leaves the complete new files in `folder`, some of them in a subfolder `.<random hex>.commit`: `settle`
    moves the rest, and so does the next `replacing_folder`.

    Args:
        folder: path of a folder; made where it is missing.
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
    """Makes a temporary folder with an empty one for what is new in it."""
    with temporary_folder(path) as staged:
        (staged / _NEW).mkdir()
        yield staged


def _finish(staged):
    """Has the new files on the disk, with the mode that new files have."""
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
            raise IsADirectoryError(errno.EISDIR, "a folder is where a file is to be written", str(folder / name))
    commit = staged.with_suffix(_COMMIT)
    replaced, made = [], {parent for name in names for parent in name.parents if not (folder / parent).exists()}
    try:
        # From here on `settle` would go on.
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
        # Under its former name it is nothing that `settle` knows; it is removed by who made it.
        with contextlib.suppress(OSError):
            os.rename(commit, staged)
        raise
    _sync_folder(folder)
    _remove(commit)


def _move(file, target):
    """Moves a file of a commit into its place, unless another process has done so meanwhile."""
    try:
        os.replace(file, target)
    except FileNotFoundError:
        if file.exists() or not target.exists():
            raise


def _files(folder):
    """The files in a folder and its subfolders, as sorted relative paths."""
    found = [pathlib.Path(root, name) for root, _, names in os.walk(folder) for name in names]
    return sorted(path.relative_to(folder) for path in found)


def _keep(file, copy):
    """Keeps the old file under a second name; it takes no room where the file system knows hard links."""
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
    """Finishes what a killed process had begun to move into `folder`; readers of several files call it first.

    It does nothing where nothing was begun, and where the folder may only be read.
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
    """Reads files that an argument has named; whatever is wrong with one is a `ValueError` with its path.

    Args:
        argument: string. The argument's name.
        path: its value, a path.
        expected: string. What was expected, e.g. `"a folder that `SemanticIndex.save` wrote"`.
        remedy: string. What to do about a damaged file.
    """

    def __init__(self, argument, path, expected, remedy):
        self.argument, self.path, self.expected, self.remedy = argument, path, expected, remedy

    def error(self, file, reason):
        """Returns the `ValueError` for a file; `reason` goes on after its path, e.g. `"is empty"`."""
        return _check.invalid(self.argument, self.expected, str(self.path), f"{file} {reason}. {self.remedy}")

    @contextlib.contextmanager
    def guard(self, file):
        """Turns whatever goes wrong in reading a file into the error for it: parsers raise many kinds."""
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
        """Raises unless there is a file that is not empty."""
        with self.guard(file):
            size = os.stat(file).st_size
            if os.path.isdir(file):
                raise IsADirectoryError(file)
        if not size:
            raise self.error(file, "is empty")

    def bytes(self, file):
        """Returns what a file holds; an empty one is an error."""
        self.check_file(file)
        with self.guard(file):
            return pathlib.Path(file).read_bytes()

    def text(self, file):
        """Returns a text file, in UTF-8; an empty one is an error."""
        content = self.bytes(file)
        with self.guard(file):
            return content.decode()

    def json(self, file, keys=None):
        """Returns the JSON in a file.

        Args:
            file: path.
            keys: dict of the keys that an object has to have to the Python types of their values; `None` for any value.
        """
        text = self.text(file)
        with self.guard(file):
            value = json.loads(text)
        if keys is not None:
            self.check_keys(file, value, keys)
        return value

    def check_keys(self, file, value, keys, where=""):
        """Raises unless `value` is a dict with values of these types (bools are no numbers) by these keys."""
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

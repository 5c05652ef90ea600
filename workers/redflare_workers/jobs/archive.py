"""Zip archives from others: checked as a whole before anything is written, and unpacked in one step or not at all."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from redflare_broker.errors import ConfigError

from redflare_workers.util.atomic_file import private_folder
from redflare_workers.util.site_defaults import MAX_BYTES, MAX_FILES

#: Prefix of unfinished folders, which ``sweep`` removes.
_UNFINISHED: Final = ".redflare-unpack-"
_SLICE: Final = 1 << 20
#: Longest name of one file, and longest path, that every file system takes.
_NAME_BYTES: Final = 255
_PATH_BYTES: Final = 1024
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 0x1
_DRIVE: Final = re.compile(r"[A-Za-z]:")
#: Marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm: a name with one is shown as another.
_BIDIRECTIONAL: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: Archives of the same files have the same bytes, whenever they are made.
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)

Source = bytes | bytearray | memoryview | str | os.PathLike[str]


class ArchiveError(ConfigError):
    """An archive was refused and not unpacked; the message says which entry is wrong, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """An entry that passed all checks."""

    info: zipfile.ZipInfo
    #: with ``/`` between its parts and none at the end
    name: str
    folder: bool
    executable: bool


def safe_extract(
    source: Source, target: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
) -> None:
    """Unpack an archive into a temporary folder beside ``target``, then replace ``target`` by it.

    Only their owner can read the files. If the process is killed meanwhile, ``sweep`` removes the temporary folder. Two
    calls for one target must not run at once.

    Args:
        source: a zip archive, or the path of one.
        target: the folder; the one above it is made.
        max_bytes: limit of the size of all files together, as declared and as unpacked.
        max_files: limit of the number of entries.

    Raises:
        ArchiveError: an entry has an absolute path, a drive letter, a ``..``, the name of another but for upper and
            lower case; it is a symlink or a device, encrypted, damaged; or a limit is exceeded.
            ``target`` is as before.
        OSError: it cannot be written. ``target`` is as before.
    """
    path = Path(target)
    with _opened(source, max_files) as archive:
        entries = _checked(archive, max_bytes)
        private_folder(path.parent)
        fresh = Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}{path.name[:80]}-", dir=path.parent))
        try:
            unpacked = fresh / "new"
            private_folder(unpacked)
            _unpack(archive, entries, unpacked, max_bytes)
            replace_folder(path, unpacked, fresh / "old")
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def sweep(folder: str | os.PathLike[str]) -> list[str]:
    """Remove temporary folders that killed processes have left in ``folder``; return their names.

    Call it while nothing is unpacked there: when the process that owns the folder starts.
    """
    left = sorted(path for path in Path(folder).glob(f"{_UNFINISHED}*") if path.is_dir())
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in left]


def read_files(source: Source, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> dict[str, bytes]:
    """Read the files of an archive, by path. Raises as ``safe_extract`` does."""
    left, files = max_bytes, {}
    with _opened(source, max_files) as archive:
        for entry in _checked(archive, max_bytes):
            if not entry.folder:
                files[entry.name] = b"".join(_content(archive, entry, left))
                left -= len(files[entry.name])
    return files


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """Pack files, given by path; the same files give the same bytes."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(_info(name, executable=files[name].startswith(b"#!")), files[name])
    return target.getvalue()


def pack_folder(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
) -> list[str]:
    """Pack a folder into a file, in pieces of 1 MiB.

    Entries that are neither files nor folders are left out, and those whose names ``safe_extract`` refuses.

    Returns:
        the paths that were left out.

    Raises:
        ArchiveError: a limit is exceeded; ``target`` is removed.
        OSError: something cannot be read or written.
    """
    root, left_out, size = Path(folder), list[str](), 0
    count, spellings = 0, dict[str, str]()
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            for path in walk(root):
                name = path.relative_to(root).as_posix()
                mode = path.lstat().st_mode
                if not stat.S_ISREG(mode) or _bad_name(name) or _other_spelling(name, spellings):
                    left_out.append(name)
                    continue
                count += 1
                info = _info(name, executable=bool(mode & stat.S_IXUSR))
                with path.open("rb") as file, archive.open(info, "w", force_zip64=True) as entry:
                    while piece := file.read(_SLICE):
                        size += len(piece)
                        if size > max_bytes or count > max_files:
                            raise ArchiveError(f"{root} has more than {max_files} files or {max_bytes} bytes")
                        entry.write(piece)
    except BaseException:
        Path(target).unlink(missing_ok=True)
        raise
    return left_out


# -- checks ------------------------------------------------------------------------------------------------------------


class _Entries(list[zipfile.ZipInfo]):
    """The entries of an archive while zipfile reads them: it ends at the limit, whatever count the archive declares."""

    def __init__(self, max_files: int) -> None:
        super().__init__()
        self._max_files = max_files

    def append(self, info: zipfile.ZipInfo) -> None:
        if len(self) >= self._max_files:
            raise ArchiveError(f"the archive has more than {self._max_files} entries, which is the most allowed")
        super().append(info)


class _Archive(zipfile.ZipFile):
    """An archive of bounded length: an entry of a few bytes costs zipfile 400 in memory."""

    def __init__(self, file: str | os.PathLike[str] | io.BytesIO, max_files: int) -> None:
        self._max_files = max_files
        super().__init__(file)

    @property
    def filelist(self) -> list[zipfile.ZipInfo]:
        return self._entries

    @filelist.setter
    def filelist(self, _empty: list[zipfile.ZipInfo]) -> None:
        self._entries = _Entries(self._max_files)


@contextmanager
def _opened(source: Source, max_files: int) -> Iterator[zipfile.ZipFile]:
    """Open an archive; turn all that zipfile and zlib raise in the block into ArchiveErrors."""
    file = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
    try:
        with _Archive(file, max_files) as archive:
            yield archive
    except ArchiveError:
        raise
    # ValueError, struct.error, OverflowError: offsets that lead nowhere
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError) as exc:
        raise ArchiveError(f"this is not a zip archive, or it is damaged: {exc}; create it again with zip") from exc


def _checked(archive: zipfile.ZipFile, max_bytes: int) -> list[_Entry]:
    infos = archive.infolist()
    total = sum(info.file_size for info in infos)
    if total > max_bytes:
        raise ArchiveError(f"the archive unpacks to {total} bytes, but at most {max_bytes} are allowed")
    entries: list[_Entry] = []
    #: by name: "folder" or "file" for an entry, "parent" for the folder of one
    seen: dict[str, str] = {}
    spellings: dict[str, str] = {}
    for info in infos:
        entry = _check_entry(info)
        name = unicodedata.normalize("NFC", entry.name)
        if name in seen and not (entry.folder and seen[name] == "parent"):
            raise _refused(info, "its name is a duplicate")
        seen[name] = "folder" if entry.folder else "file"
        for parent in map(str, PurePosixPath(name).parents):
            if seen.setdefault(parent, "parent") == "file":
                raise _refused(info, f"{parent!r} is also a file")
        if other := _other_spelling(name, spellings):
            raise _refused(info, f"its path differs from {other!r} only by upper and lower case")
        entries.append(entry)
    return entries


def _check_entry(info: zipfile.ZipInfo) -> _Entry:
    # zipfile cuts names at a NUL; the original has the rest
    name = info.orig_filename
    if why := _bad_name(name):
        raise _refused(info, why)
    folder, mode = name.endswith("/"), info.external_attr >> 16
    expected = stat.S_IFDIR if folder else stat.S_IFREG
    if stat.S_IFMT(mode) not in (0, expected):
        raise _refused(info, "it is neither a file nor a folder (a symlink, a device, a pipe)")
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        raise _refused(info, "it is encrypted, or compressed with a method other than deflate")
    if folder and info.file_size:
        raise _refused(info, "it is a folder with content")
    return _Entry(info=info, name=name.removesuffix("/"), folder=folder, executable=bool(mode & stat.S_IXUSR))


def _bad_name(name: str) -> str:
    """Why an entry may not have this name; "": it may."""
    if not name or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "its name is empty or has control characters"
    if _BIDIRECTIONAL.search(name):
        return "its name has characters that change the direction of writing"
    if name.startswith("/") or "\\" in name or _DRIVE.match(name):
        return "its path is absolute, has a drive letter, or a backslash"
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "its path has an empty part, '.' or '..'"
    if len(name.encode()) > _PATH_BYTES or any(len(part.encode()) > _NAME_BYTES for part in parts):
        return f"its path has more than {_PATH_BYTES} bytes, or a part of it more than {_NAME_BYTES}"
    return ""


def _other_spelling(name: str, spellings: dict[str, str]) -> str:
    """Note how a path and its folders are spelled; return an earlier one that some file systems take for the same."""
    for path in (*reversed(list(map(str, PurePosixPath(name).parents))), name):
        if (other := spellings.setdefault(unicodedata.normalize("NFC", path.casefold()), path)) != path:
            return other
    return ""


def _refused(info: zipfile.ZipInfo, why: str) -> ArchiveError:
    return ArchiveError(f"entry {info.orig_filename[:200]!r} of the archive is rejected: {why}")


# -- reading and writing -----------------------------------------------------------------------------------------------


def _content(archive: zipfile.ZipFile, entry: _Entry, left: int) -> Iterator[bytes]:
    """Read an entry in pieces, and raise if it is longer than ``left``, whatever size the archive declares."""
    with archive.open(entry.info) as file:
        while piece := file.read(_SLICE):
            left -= len(piece)
            if left < 0:
                raise ArchiveError(
                    f"entry {entry.name!r} of the archive is rejected: its content is larger than its declared size"
                )
            yield piece


def _unpack(archive: zipfile.ZipFile, entries: list[_Entry], folder: Path, max_bytes: int) -> None:
    left = max_bytes
    for entry in entries:
        path = folder / entry.name
        if entry.folder:
            private_folder(path)
            continue
        private_folder(path.parent)
        mode = 0o700 if entry.executable else 0o600
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(handle, "wb") as file:
            for piece in _content(archive, entry, left):
                left -= len(piece)
                file.write(piece)


def replace_folder(target: Path, unpacked: Path, aside: Path) -> None:
    """Move ``target`` to ``aside`` and ``unpacked`` to ``target``."""
    there = os.path.lexists(target)
    if there:
        os.rename(target, aside)
    try:
        os.rename(unpacked, target)
    except BaseException:
        if there:
            os.rename(aside, target)
        raise


def _info(name: str, *, executable: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    # UNIX, on every system
    info.create_system = 3
    info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    return info


def walk(root: Path, left_out: Collection[str] = ()) -> Iterator[Path]:
    """Walk over everything but folders, sorted, without following links or entering folders of these names."""
    for parent, folders, files in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        folders[:] = sorted(set(folders) - set(links) - set(left_out))
        for name in sorted(files + links):
            yield Path(parent, name)

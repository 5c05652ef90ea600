"""Untrusted archives: what is refused, without leaving files behind."""

from __future__ import annotations

import io
import os
import stat
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redflare_workers.jobs import ArchiveError, pack_files, pack_folder, read_files, safe_extract, sweep
from redflare_workers.jobs.archive import replace_folder

FILES = {"config/config_fed_client.json": b"{}", "custom/net.py": b"x = 1\n", "custom/run.sh": b"#!/bin/sh\n"}


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def made(*entries: tuple[str, bytes], mode: int = 0, flags: Callable[[zipfile.ZipInfo], None] | None = None) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about duplicate names
        for name, data in entries:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            if flags is not None:
                flags(info)
            archive.writestr(info, data)
    return target.getvalue()


def test_an_archive_becomes_a_folder_with_the_same_files(tmp_path: Path) -> None:
    target = tmp_path / "jobs" / "one"
    safe_extract(pack_files(FILES), target)
    assert tree(target) == FILES
    assert os.access(target / "custom/run.sh", os.X_OK)
    assert not os.access(target / "custom/net.py", os.X_OK)
    assert os.listdir(tmp_path / "jobs") == ["one"]


def test_unpacked_files_are_for_their_owner_only(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "job-1" / "app"
    safe_extract(pack_files(FILES), target)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "runs", *tmp_path.rglob("*"))}
    files = {"config_fed_client.json": 0o600, "net.py": 0o600, "run.sh": 0o700}
    assert modes == {**dict.fromkeys(("runs", "job-1", "app", "config", "custom"), 0o700), **files}


def test_the_same_files_give_the_same_bytes() -> None:
    assert pack_files(FILES) == pack_files(dict(reversed(FILES.items())))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_any_kind_and_files_are_read(kind: Callable[[bytes], bytes], tmp_path: Path) -> None:
    packed = pack_files(FILES)
    (tmp_path / "job.zip").write_bytes(packed)
    assert read_files(kind(packed)) == FILES
    assert read_files(tmp_path / "job.zip") == FILES


def test_an_earlier_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    safe_extract(pack_files({"old.txt": b"old", "both.txt": b"old"}), tmp_path / "app")
    safe_extract(pack_files({"both.txt": b"new"}), tmp_path / "app")
    assert tree(tmp_path) == {"app/both.txt": b"new"}


def test_a_link_in_place_of_the_folder_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept.txt").write_text("kept")
    (tmp_path / "app").symlink_to(other)
    safe_extract(pack_files(FILES), tmp_path / "app")
    assert not (tmp_path / "app").is_symlink()
    assert tree(tmp_path / "app") == FILES
    assert tree(other) == {"kept.txt": b"kept"}


REFUSED = {
    "an absolute path": made(("/etc/passwd", b"x")),
    "a way up": made(("../escaped.txt", b"x")),
    "a way up in the middle": made(("config/../../escaped.txt", b"x")),
    "a way up that ends it": made(("config/..", b"x")),
    "a folder that leads up": made(("../", b"")),
    "a drive letter": made(("C:/windows/x.txt", b"x")),
    "a backslash": made(("..\\escaped.txt", b"x")),
    "an empty part": made(("config//x.json", b"x")),
    "a dot": made(("./x.json", b"x")),
    "a NUL in a name": made(("x.json\0.txt", b"x")),
    "a line end in a name": made(("x\n.json", b"x")),
    "a name that is too long": made(("x" * 256, b"x")),
    "a path that is too long": made(("/".join(["x" * 200] * 6), b"x")),
    "a symlink": made(("link", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777),
    "a device": made(("device", b""), mode=stat.S_IFCHR | 0o666),
    "a pipe": made(("pipe", b""), mode=stat.S_IFIFO | 0o666),
    "a folder that says it is a file": made(("folder", b""), mode=stat.S_IFDIR | 0o755),
    "a name that is there twice": made(("x.json", b"1"), ("x.json", b"2")),
    "one name in two spellings": made(("\u00e9.json", b"1"), ("e\u0301.json", b"2")),
    "two names in upper and lower case": made(("x.json", b"1"), ("X.json", b"2")),
    "two folders in upper and lower case": made(("app_Site-1/x.json", b"1"), ("app_site-1/y.json", b"2")),
    "a file and a folder in upper and lower case": made(("X", b"1"), ("x/y.json", b"2")),
    "a name that is shown as another": made(("x\u202egpj.sh", b"1")),
    "an invisible mark in a name": made(("x\u200f.json", b"1")),
    "a file that is a folder too": made(("x", b"1"), ("x/y.json", b"2")),
    "a folder that is a file too": made(("x/y.json", b"2"), ("x", b"1")),
    "another compression": made(("x", b"1"), flags=lambda info: setattr(info, "compress_type", zipfile.ZIP_BZIP2)),
    "no archive": b"no archive at all",
    "nothing": b"",
    "half an archive": pack_files(FILES)[:-30],
}


@pytest.mark.parametrize("packed", REFUSED.values(), ids=REFUSED)
def test_it_is_refused_and_nothing_is_left(packed: bytes, tmp_path: Path) -> None:
    safe_extract(pack_files(FILES), tmp_path / "jobs" / "app")
    with pytest.raises(ArchiveError):
        safe_extract(packed, tmp_path / "jobs" / "app")
    with pytest.raises(ArchiveError):
        read_files(packed)
    assert tree(tmp_path) == {f"jobs/app/{path}": data for path, data in FILES.items()}
    assert os.listdir(tmp_path / "jobs") == ["app"]


def test_a_message_names_the_entry() -> None:
    with pytest.raises(ArchiveError, match=r"entry '\.\./escaped\.txt' of the archive is rejected"):
        read_files(REFUSED["a way up"])


def test_an_encrypted_entry_is_refused() -> None:
    packed = bytearray(pack_files({"x.json": b"{}"}))
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ArchiveError, match="encrypted"):
        read_files(packed)


def test_an_entry_whose_content_was_changed_is_refused(tmp_path: Path) -> None:
    packed = bytearray(made(("x.bin", os.urandom(5000))))
    packed[2000] ^= 0xFF
    with pytest.raises(ArchiveError):
        safe_extract(packed, tmp_path / "app")
    assert os.listdir(tmp_path) == []


def test_what_unpacks_to_more_than_the_limit_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = pack_files({"zeros.bin": bytes(5_000_000)})
    assert len(bomb) < 10_000
    with pytest.raises(ArchiveError, match="unpacks to 5000000 bytes, but at most 1000000 are allowed"):
        safe_extract(bomb, tmp_path / "app", max_bytes=1_000_000)
    assert os.listdir(tmp_path) == []


def test_the_declared_size_of_an_entry_is_not_trusted(tmp_path: Path) -> None:
    bomb = bytearray(pack_files({"zeros.bin": bytes(5_000_000)}))
    size = (5_000_000).to_bytes(4, "little")
    for start in (bomb.index(size), bomb.rindex(size)):
        bomb[start : start + 4] = (1000).to_bytes(4, "little")
    with pytest.raises(ArchiveError):
        safe_extract(bomb, tmp_path / "app", max_bytes=1_000_000)
    assert os.listdir(tmp_path) == []


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="has more than 10 entries, which is the most allowed"):
        safe_extract(pack_files({f"{n}.txt": b"" for n in range(11)}), tmp_path / "app", max_files=10)


@pytest.mark.parametrize("declared", [20_000, 1])
def test_too_many_files_cost_no_memory_before_they_are_refused(declared: int) -> None:
    packed = bytearray(pack_files({f"{n}": b"" for n in range(20_000)}))
    end = packed.rindex(b"PK\x05\x06")
    packed[end + 8 : end + 12] = declared.to_bytes(2, "little") * 2
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="more than 100 entries"):
            read_files(packed, max_files=100)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # the copy of it, and its directory once more
    assert peak < 2.2 * len(packed)


def test_empty_folders_are_kept(tmp_path: Path) -> None:
    safe_extract(made(("empty/", b""), ("config/", b""), ("config/x.json", b"{}")), tmp_path / "app")
    assert sorted(p.name for p in (tmp_path / "app").iterdir()) == ["config", "empty"]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".redflare-unpack-app-x1" / "new").mkdir(parents=True)
    (tmp_path / "app").mkdir()
    assert sweep(tmp_path) == [".redflare-unpack-app-x1"]
    assert sweep(tmp_path) == []
    assert os.listdir(tmp_path) == ["app"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damage_gives_another_error_or_other_files(data: st.DataObject) -> None:
    packed = bytearray(pack_files(FILES))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_files(packed)
    except ArchiveError:
        return
    assert set(found.values()) <= {*FILES.values(), b""}


def test_a_folder_is_packed_into_a_file_without_its_links(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    safe_extract(pack_files(FILES), folder)
    (folder / "link").symlink_to("/etc")
    assert pack_folder(folder, tmp_path / "job.zip") == ["link"]
    assert read_files(tmp_path / "job.zip") == FILES


def test_a_folder_is_packed_so_that_it_can_be_unpacked_where_case_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    safe_extract(pack_files(FILES), folder)
    (folder / "CUSTOM").mkdir()
    (folder / "CUSTOM" / "net.py").write_bytes(b"x = 2\n")
    assert pack_folder(folder, tmp_path / "job.zip") == ["custom/net.py", "custom/run.sh"]
    assert sorted(read_files(tmp_path / "job.zip")) == ["CUSTOM/net.py", "config/config_fed_client.json"]


@pytest.mark.parametrize("name", [b"model-\xff.bin", b"two\nlines", b"back\\slash", b"C:"])
def test_a_file_whose_name_would_be_refused_is_not_packed(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / "job"
    safe_extract(pack_files(FILES), folder)
    odd = os.fsdecode(name)
    (folder / odd).write_bytes(b"weights")
    assert pack_folder(folder, tmp_path / "job.zip") == [odd]
    assert read_files(tmp_path / "job.zip") == FILES


def test_a_folder_over_the_limit_leaves_no_archive(tmp_path: Path) -> None:
    safe_extract(pack_files({"big.bin": bytes(1000)}), tmp_path / "job")
    with pytest.raises(ArchiveError, match="more than"):
        pack_folder(tmp_path / "job", tmp_path / "job.zip", max_bytes=999)
    assert os.listdir(tmp_path) == ["job"]


def test_a_folder_is_replaced_by_another(tmp_path: Path) -> None:
    target, fresh, aside = (tmp_path / name for name in ("target", "fresh", "aside"))
    fresh.mkdir()
    replace_folder(target, fresh, aside)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    (target / "old").touch()
    fresh.mkdir()
    (fresh / "new").touch()
    replace_folder(target, fresh, aside)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in aside.iterdir()] == ["old"]


@pytest.mark.parametrize("there", [True, False], ids=["replaces", "adds"])
def test_a_folder_that_cannot_be_replaced_is_as_it_was(tmp_path: Path, there: bool) -> None:
    target, fresh, aside = (tmp_path / name for name in ("target", "fresh", "aside"))
    if there:
        target.mkdir()
        (target / "old").touch()
    with pytest.raises(FileNotFoundError, match="fresh' -> "):
        replace_folder(target, fresh, aside)
    assert [path.name for path in target.glob("*")] == (["old"] if there else [])
    assert not aside.exists()

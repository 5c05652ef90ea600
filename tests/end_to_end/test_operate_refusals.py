"""Jobs that must not run: refused by the command, by the server and by sites, with nothing left behind of them."""

from __future__ import annotations

import io
import json
import stat
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from redflare_broker.job_store.store import JobStore
from redflare_broker.keys import Keys
from redflare_broker.transport.server import Server
from redflare_workers.jobs import pack_files

from tests.support.federation.commands import OperatedFederation
from tests.support.federation.faulty_jobs import FaultyJobs, files_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

ESCAPED = "escaped.txt"


def packed(files: Mapping[str, bytes], *more: tuple[str, bytes], mode: int = 0) -> bytes:
    """A zip with entries that ours would never write."""
    target = io.BytesIO(pack_files(files))
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in more:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.external_attr = name, mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return target.getvalue()


def bomb(files: Mapping[str, bytes]) -> bytes:
    """Unpacks to 1.2 GB."""
    target = io.BytesIO(pack_files(files))
    with (
        zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("app/zeros.bin", "w", force_zip64=True) as entry,
    ):
        for _ in range(75):
            entry.write(bytes(1 << 24))
    return target.getvalue()


def with_server(path: str, **args: Any) -> dict[str, bytes]:
    """The files of a job whose workflow is of a class."""
    files = files_of("odd")
    workflows = [{"path": path, "args": args}]
    config = json.dumps({"format_version": 2, "workflows": workflows}).encode()
    return {**files, "app/config/config_fed_server.json": config}


def archives(outside: Path) -> dict[str, tuple[bytes, str]]:
    """Archives that are refused, each with a part of the reason."""
    files = files_of("odd")
    return {
        "up": (packed(files, (f"../../{ESCAPED}", b"x")), f"../../{ESCAPED}"),
        "absolute": (packed(files, (str(outside / ESCAPED), b"x")), ESCAPED),
        "link": (packed(files, ("app/link", b"/etc"), mode=stat.S_IFLNK | 0o777), "app/link"),
        "twice": (packed(files, ("meta.json", b"{}")), "meta.json"),
        "bomb": (bomb(files), "unpacks to"),
        "none": (b"no archive", "zip"),
    }


def test_a_job_that_must_not_run_is_refused_and_leaves_nothing(operated: OperatedFederation) -> None:
    faulty = FaultyJobs(operated)
    operated.server()
    operated.site(1)
    operated.site(2, allow_custom=True)
    operated.site(3, allow=["redflare_workers.workflow.*"])
    refused = archives(operated.folder)

    # by the command: nothing is submitted
    for name, (archive, reason) in refused.items():
        (operated.folder / f"{name}.zip").write_bytes(archive)
        ran = operated.run("job", "submit", f"{name}.zip", "--id", name)
        assert (ran.returncode, reason in ran.stderr) == (2, True), (name, ran)
    meta = json.loads(files_of("odd")["meta.json"])
    wrong = json.dumps({**meta, "min_clients": "two", "deploy_map": {"other": ["@ALL"]}, "nmae": 1}).encode()
    (operated.folder / "wrong.zip").write_bytes(pack_files({**files_of("odd"), "meta.json": wrong}))
    problems = operated.json("job", "submit", "wrong.zip", code=2)["problems"]
    assert {("meta.json", "min_clients"), ("other", "")} == {(each["file"], each["key"]) for each in problems}, problems
    assert operated.json("job", "list", code=1) == []
    faulty.assert_clean()

    # by the server: submitted without the command
    classes = {
        "popen": (pack_files(with_server("subprocess.Popen", args=["touch", ESCAPED])), "subprocess.Popen"),
        "system": (pack_files(with_server("os.system", command=f"touch {ESCAPED}")), "os.system"),
        "dotted": (pack_files(with_server("redflare_workers.jobs.archive.os.system", command="id")), "archive.os"),
        "custom": (pack_files(files_of("odd")), "flow.Flow is code that the job brings"),
    }
    others = {"meta": (pack_files({**files_of("odd"), "meta.json": b'{"name": "other"}'}), "")}
    with Server.connect(operated.url) as connection:
        store = JobStore(connection, Keys("flare"))
        for name, (archive, _) in {**refused, **classes, **others}.items():
            store.submit(meta, archive, name)
    for name, (_, reason) in {**refused, **classes, **others}.items():
        operated.await_status(name, "FINISHED:CAN_NOT_SCHEDULE")
        assert reason in operated.record(name)["reason"], (name, operated.record(name))
    assert not operated.processes_of("job_main")
    faulty.assert_clean(*refused, *classes, *others)

    # by the sites: one does not allow the job's code, and another not even the exchanger
    operated.end("server")
    faulty.allow_code()
    operated.server()
    faulty.submit("sites", "--wait", code=1)
    record = operated.record("sites")
    assert record["status"] == "FINISHED:FAILED_TO_RUN"
    assert "mine.Mine" in record["sites"]["site-1"]["reason"]
    assert "mine.Mine" in record["sites"]["site-3"]["reason"]
    assert {path.parent.name for path in operated.folders_of("sites")} <= {"server", "site-2"}
    assert not operated.processes_of("job_main")
    faulty.assert_clean("sites")
    operated.assert_nothing_is_left("sites")

"""Files that are not ours are refused, and neither changed, renamed, closed to others nor deleted.

A slip in `cache.store` names any file of the machine. The gateway recognises its own by what stands in it, never by
its name, and everything that it makes beside the database is checked in the same way.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from store_helpers import FakeClock, bytes_of, entry, key, make_sqlite, opened
from support.waiting import until

from gateway.body import Body
from gateway.errors import ConfigurationError
from gateway.store.sqlite import ownership
from gateway.store.sqlite.file_lock import FileLock


def text(path: Path) -> None:
    path.write_bytes(b"[upstream]\nurl = 'https://redash.example.com'\n" * 100)


def short(path: Path) -> None:
    """Shorter than a header: it must not be taken for an empty file."""
    path.write_bytes(b"\n")


def other_sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE notes (text)")
        db.commit()


def other_application(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA application_id = 252006673")  # Fossil's
        db.execute("CREATE TABLE meta (name, value)")
        db.commit()


def hot_journal(path: Path) -> None:
    """Opening it with SQLite, even to look, would roll another program's transaction back."""
    other_sqlite(path)
    path.with_name(path.name + "-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))


def directory(path: Path) -> None:
    path.mkdir(mode=0o755)
    (path / "letter").write_bytes(b"dear")


def fifo(path: Path) -> None:
    """Opening it would wait for a writer for ever."""
    os.mkfifo(path, 0o644)


def link(path: Path) -> None:
    text(path.with_name("target"))
    path.symlink_to("target")


def wal_alone(path: Path) -> None:
    """SQLite deletes a WAL that it finds beside no database."""
    path.with_name(path.name + "-wal").write_bytes(b"w" * 100)


def wal_beside_empty(path: Path) -> None:
    path.touch()
    wal_alone(path)


def lock_alone(path: Path) -> None:
    """`sqlite:yarn` has its lock in yarn.lock."""
    path.with_name(path.name + ".lock").write_bytes(b"# yarn lockfile v1\n")


def lock_directory(path: Path) -> None:
    path.with_name(path.name + ".lock").mkdir()


def bodies(path: Path) -> None:
    """Old enough to be swept as left over."""
    place = path.with_name(path.name + ".bodies")
    place.mkdir(mode=0o755)
    (place / "letter").write_bytes(b"dear")
    os.utime(place / "letter", (time.time() - 3600,) * 2)


def bodies_file(path: Path) -> None:
    text(path.with_name(path.name + ".bodies"))


def bodies_link(path: Path) -> None:
    directory(path.with_name("home"))
    path.with_name(path.name + ".bodies").symlink_to("home")


def empty(path: Path) -> None:
    path.touch()


def move(path: Path, to: Path) -> None:
    path.rename(to)


def head(path: Path) -> bytes:
    return path.read_bytes()[:100]


FOREIGN: Final = (
    text, short, other_sqlite, other_application, hot_journal, directory, fifo, link, wal_alone, wal_beside_empty,
    lock_alone, lock_directory, bodies, bodies_file, bodies_link,
)  # fmt: skip


def everything(root: Path) -> dict[str, object]:
    """All that a stranger could notice: names, kinds, rights, times of change and contents."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (state.st_mode, state.st_ino, state.st_mtime_ns, content)
    return found


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
async def test_what_is_not_ours_is_refused_and_untouched(
    path: Path, clock: FakeClock, make: Callable[[Path], None]
) -> None:
    make(path)
    for file in path.parent.iterdir():
        if not file.is_symlink():
            file.chmod(0o755 if file.is_dir() else 0o644)
    before = everything(path.parent)
    store = make_sqlite(path, clock)
    with pytest.raises(ConfigurationError, match=r"cache\.store.*choose another path"):
        await store.open()
    await store.close()
    assert everything(path.parent) == before
    assert ownership.refusal(path)


async def test_an_empty_file_may_be_used(path: Path, clock: FakeClock) -> None:
    """`mktemp` makes one, and nothing can be lost."""
    empty(path)
    async with opened(make_sqlite(path, clock)) as store:
        await store.put([key(1)], entry(), Body.of(b"rows"))
    async with opened(make_sqlite(path, clock)) as store:
        assert await bytes_of(store, 1) == b"rows"


async def test_our_file_behind_a_link_may_be_used(path: Path, clock: FakeClock, tmp_path: Path) -> None:
    async with opened(make_sqlite(path, clock)) as store:
        await store.put([key(1)], entry(), Body.of(b"rows"))
    link = tmp_path / "link.db"
    link.symlink_to(path)
    async with opened(make_sqlite(link, clock)) as store:
        assert await bytes_of(store, 1) == b"rows"


async def test_our_file_is_known_from_its_first_moment(path: Path, clock: FakeClock) -> None:
    """The mark is in the file itself and not only in its WAL: a kill may come before the first checkpoint."""
    async with opened(make_sqlite(path, clock)):
        assert int.from_bytes(head(path)[68:72], "big") == ownership.APPLICATION_ID
        assert ownership.refusal(path) is None


async def test_foreign_files_among_the_bodies_are_not_swept(path: Path, clock: FakeClock) -> None:
    """The directory is ours, yet somebody may have put a file there; only names that we give are left over."""
    async with opened(make_sqlite(path, clock)) as store:
        letter, ours = store.files.directory / "letter.tmp", store.files.directory / "0123abcd-0.tmp"
        for file in (letter, ours):
            file.write_bytes(b"dear")
            os.utime(file, (time.time() - 3600,) * 2)
        await store.upkeep.checked()
        clock.advance(11)
        await store.sweep()
        assert (letter.exists(), ours.exists()) == (True, False)


async def test_bodies_without_their_database_are_still_ours(path: Path, clock: FakeClock) -> None:
    """An operator may have deleted the database alone."""
    place = path.with_name(path.name + ".bodies")
    place.mkdir()
    (place / f"{'ab' * 32}.0123abcd-7").write_bytes(b"left over")
    async with opened(make_sqlite(path, clock)) as store:
        assert store.ready


async def test_a_file_that_took_the_place_of_ours_is_not_renamed(
    path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Recovery renames what it finds under our name; that may be another file by now."""
    async with opened(make_sqlite(path, clock)) as store:
        move(path, path.with_name("moved.db"))
        text(path)
        store.database.report_failure(sqlite3.DatabaseError("database disk image is malformed"))
        await until(lambda: "choose another path" in caplog.text)
        assert not store.ready
        assert head(path).startswith(b"[upstream]")
        move(path, path.with_name("text"))
        move(path.with_name("gateway.db-wal"), path.with_name("moved.db-wal"))  # SQLite leaves it: its file had gone
        await store.usable()
    assert not list(path.parent.glob("gateway.db.*-*"))
    assert caplog.text.count("choose another path") == 1


async def test_a_file_made_while_we_waited_for_the_lock_is_refused(path: Path, clock: FakeClock) -> None:
    other = FileLock(path.with_name("gateway.db.lock"))
    assert other.acquire()
    store = make_sqlite(path, clock)
    opening = asyncio.create_task(store.open())
    assert not (await asyncio.wait({opening}, timeout=0.1))[0]
    text(path)
    other.release()
    with pytest.raises(ConfigurationError, match="choose another path"):
        await opening
    await store.close()
    assert head(path).startswith(b"[upstream]")

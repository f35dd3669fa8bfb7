"""What was measured and what won, in one SQLite file that several processes may use at once.

With this you can keep trials (`add`), winners (`win`, `winners`) and fitted models (`keep_model`, `models`) between processes.
All are keyed by what was tuned (`kind` and `problem`), on what (`target`) and by which version of what is tuned: figures of
another machine or version are never mixed in. A damaged file is set aside with a warning, and a new one begun.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mainspring.base.errors import ArgumentError

SCHEMA = 1
PATIENCE = 30.0  # seconds that a process waits for another that is writing
_TABLES = """
create table if not exists trials (kind text, problem text, target text, version text, config text, numbers text, cost real,
                                   at real);
create index if not exists of_kind on trials (kind, target, version);
create table if not exists winners (kind text, problem text, target text, version text, config text, gain real, at real,
                                    primary key (kind, problem, target, version));
create table if not exists models (kind text, target text, version text, model blob, at real,
                                   primary key (kind, target, version));
"""


@dataclass(frozen=True)
class Trial:
    """One measured configuration. `numbers`: as the model sees it; `cost`: infinite when it failed."""

    kind: str
    problem: str
    config: str
    numbers: tuple[float, ...]
    cost: float


@dataclass(frozen=True)
class Winner:
    """What is to be used for a problem; `gain` = cost of the default / its cost, 1.0 where the default stands."""

    kind: str
    problem: str
    config: str
    gain: float


class Store:
    """The file `path`, seen for one `target` and one `version`."""

    def __init__(self, path: str | os.PathLike[str], target: str, version: str):
        self.path, self.target, self.version = Path(path), target, version

    # ------------------------------------------------------------------------------------------------------ writing

    def add(self, trials: Iterable[Trial]) -> None:
        """Keep `trials`, all or none."""
        now = time.time()
        rows = [(t.kind, t.problem, self.target, self.version, t.config, json.dumps(t.numbers), t.cost, now) for t in trials]
        with self._open() as db:
            db.executemany("insert into trials values (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def win(self, winner: Winner) -> None:
        """`winner` stands for its problem from now on."""
        row = (winner.kind, winner.problem, self.target, self.version, winner.config, winner.gain, time.time())
        with self._open() as db:
            db.execute("insert or replace into winners values (?, ?, ?, ?, ?, ?, ?)", row)

    def keep_model(self, kind: str, model: bytes) -> None:
        """`model` is the one of `kind` from now on."""
        with self._open() as db:
            db.execute("insert or replace into models values (?, ?, ?, ?, ?)",
                       (kind, self.target, self.version, model, time.time()))

    def forget(self, kind: str | None = None) -> int:
        """Remove what is known of `kind`, or everything, for every target and version; gives the number of winners removed."""
        if not self.path.exists():
            return 0
        where, values = ("", ()) if kind is None else (" where kind = ?", (kind,))
        with self._open() as db:
            removed = db.execute(f"delete from winners{where}", values).rowcount
            for table in ("trials", "models"):
                db.execute(f"delete from {table}{where}", values)
        return removed

    # ------------------------------------------------------------------------------------------------------ reading

    def trials(self, kind: str) -> list[Trial]:
        """All trials of `kind`, oldest first."""
        rows = self._rows("select problem, config, numbers, cost from trials where kind = ? and target = ? and version = ? "
                          "order by rowid", kind)
        return [Trial(kind, problem, config, tuple(json.loads(numbers)), cost) for problem, config, numbers, cost in rows]

    def winners(self) -> list[Winner]:
        """All winners, latest last."""
        rows = self._rows("select kind, problem, config, gain from winners where target = ? and version = ? order by at")
        return [Winner(*row) for row in rows]

    def models(self) -> dict[str, bytes]:
        """The model of each kind that has one."""
        return dict(self._rows("select kind, model from models where target = ? and version = ? order by kind"))

    def _rows(self, query: str, *before: str) -> list[tuple]:  # type: ignore[type-arg]
        if not self.path.exists():
            return []
        with self._open() as db:
            found: list[tuple] = db.execute(query, (*before, self.target, self.version)).fetchall()  # type: ignore[type-arg]
        return found

    # ------------------------------------------------------------------------------------------------------ the file

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction: committed at the end, undone by an error. None is kept: a forked process must not share it."""
        db = self._connect()
        try:
            with db:
                yield db
        finally:
            db.close()

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self._ready()
        except (sqlite3.OperationalError, OSError) as error:  # locked, read-only, no folder: not damaged
            raise ArgumentError("Store", "path", "must be a file that can be written", f"{self.path}: {error}",
                                "a file in your home folder") from error
        except sqlite3.DatabaseError as error:
            self._set_aside(str(error))
            return self._ready()

    def _ready(self) -> sqlite3.Connection:
        """A connection to a file of our schema, which is checked when it is opened."""
        db = sqlite3.connect(self.path, timeout=PATIENCE)
        try:
            schema = db.execute("pragma user_version").fetchone()[0]
            if schema not in (0, SCHEMA):
                raise sqlite3.DatabaseError(f"its schema is {schema}, not {SCHEMA}")
            if db.execute("pragma quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("it is damaged")
            if schema == 0:
                db.executescript(f"begin immediate; {_TABLES} pragma user_version = {SCHEMA}; commit;")
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self, why: str) -> None:
        kept = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        with contextlib.suppress(FileNotFoundError):  # another process was first
            os.replace(self.path, kept)
        warnings.warn(f"the tuning database {self.path} cannot be read ({why}); it is kept as {kept.name}, and a new one begun",
                      stacklevel=2)

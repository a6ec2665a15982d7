"""A user study: people rank the results of several methods, blind (Yang et al., arXiv 2211.13227, section 4.2).

Each person sees every group once, in an order of their own: a source, an exemplar, and the results of all methods,
shuffled anew for each group and person and named by letters. They give every result a rank, 1 for the best, for
quality and for consistency with the exemplar. Answers are kept in an SQLite file, a group in one transaction.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UserError

CRITERIA = {
    "quality": "How real and well made is the picture, whatever it shows?",
    "consistency": "How alike is what was painted to the example?",
}
"""What is ranked, and how people are asked."""
SCHEMA = """
create table if not exists study (plan text not null);
create table if not exists people (id text primary key, number integer not null unique);
create table if not exists ranks (
    person text not null references people, item text not null, criterion text not null, method text not null,
    rank integer not null, primary key (person, item, criterion, method)
);
"""


@dataclass(frozen=True)
class Plan:
    """What a study asks."""

    benchmark: str
    """Its title."""
    items: tuple[str, ...]
    """Names, a group each."""
    methods: tuple[str, ...]
    seed: int
    """Of all orders."""


def make_plan(title: str, names: Sequence[str], methods: Sequence[str], groups: int, seed: int) -> Plan:
    """Choose the groups.

    Args:
        title: of the benchmark.
        names: of its items.
        methods: at least two.
        groups: how many items to draw; 30 in the paper.
        seed: of the choice and of all orders.

    Raises:
        UserError: there are fewer items or methods than needed.
    """
    if len(methods) < 2:
        raise UserError(f"a study needs at least two methods to rank, got {len(methods)}")
    if not 1 <= groups <= len(names):
        raise UserError(f"the groups must be between 1 and the benchmark's {len(names)} items, got {groups}")
    chosen = np.random.default_rng((seed, 0)).choice(len(names), groups, replace=False)
    return Plan(title, tuple(names[index] for index in sorted(chosen)), tuple(methods), seed)


class Study:
    """A study's file.

    Args:
        path: of the SQLite file; made if it is not there.
        plan: what is asked; the file's own if not given.

    Raises:
        DataError: the file is of another study, or no study's.
    """

    def __init__(self, path: Path, plan: Plan | None = None) -> None:
        if plan is None and not path.exists():
            raise DataError(f"there is no study {path}; pbe study serve makes one")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._lock = path, threading.Lock()
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False)
            self._connection.execute("pragma foreign_keys = on")
            if plan is not None:
                self._connection.executescript(SCHEMA)
            row = self._connection.execute("select plan from study").fetchone()
            if row is None and plan is not None:
                with self._write() as write:
                    write.execute("insert into study values (?)", (json.dumps(asdict(plan)),))
                row = (json.dumps(asdict(plan)),)
            values: dict[str, Any] = json.loads(row[0])
        except (sqlite3.DatabaseError, TypeError) as error:
            raise DataError(f"{path} is no study's file: {error}; give another") from error
        values |= {"items": tuple(values["items"]), "methods": tuple(values["methods"])}
        self.plan = Plan(**values)
        if plan is not None and plan != self.plan:
            self.close()
            raise DataError(f"{path} is of a study with other methods, groups or seed; give another file for this one")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._connection:  # commits, or takes all back
            yield self._connection

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def enter(self) -> str:
        """A new person; gives their id, which nobody can guess."""
        name = uuid.uuid4().hex
        with self._write() as write:
            write.execute("insert into people select ?, coalesce(max(number), 0) + 1 from people", (name,))
        return name

    def number(self, person: str) -> int | None:
        """A person's number, from 1; None for nobody."""
        found = self._read("select number from people where id = ?", person)
        return int(found[0][0]) if found else None

    def answered(self, person: str) -> set[str]:
        """Items that a person has ranked."""
        return {str(item) for (item,) in self._read("select distinct item from ranks where person = ?", person)}

    def groups(self, person: str) -> list[str]:
        """All items in a person's order.

        Raises:
            KeyError: there is no such person.
        """
        order = np.random.default_rng((self.plan.seed, 1, self._known(person))).permutation(len(self.plan.items))
        return [self.plan.items[index] for index in order]

    def methods(self, person: str, item: str) -> list[str]:
        """All methods in the order in which a person sees their results of an item.

        Raises:
            KeyError: there is no such person.
            ValueError: there is no such item.
        """
        place = self.plan.items.index(item)
        rng = np.random.default_rng((self.plan.seed, 2, self._known(person), place))
        return [self.plan.methods[index] for index in rng.permutation(len(self.plan.methods))]

    def _known(self, person: str) -> int:
        if (number := self.number(person)) is None:
            raise KeyError(person)
        return number

    def answer(self, person: str, item: str, ranks: dict[str, list[int]]) -> None:
        """Keep a person's ranks of a group; given again, they take the place of the first.

        Args:
            person: id.
            item: name.
            ranks: by criterion, the rank of each result in the order shown: 1 to the number of methods, each once.

        Raises:
            UserError: the ranks are something else.
        """
        methods = self.methods(person, item)
        if set(ranks) != set(CRITERIA) or any(
            sorted(given) != list(range(1, len(methods) + 1)) for given in ranks.values()
        ):
            raise UserError(f"each result needs a rank for {' and '.join(CRITERIA)}: 1 to {len(methods)}, each once")
        with self._write() as write:
            write.executemany(
                "insert or replace into ranks values (?, ?, ?, ?, ?)",
                [
                    (person, item, criterion, method, rank)
                    for criterion, given in ranks.items()
                    for method, rank in zip(methods, given, strict=True)
                ],
            )

    def mean_ranks(self, criterion: str) -> tuple[np.ndarray[Any, np.dtype[np.float64]], int]:
        """Each person's mean rank of each method over the groups they answered.

        Returns:
            (people, methods), in [1, methods], and how many groups were answered in all.
        """
        rows = self._read("select person, method, avg(rank) from ranks where criterion = ? group by 1, 2", criterion)
        people = sorted({person for person, *_ in rows})
        table = np.full((len(people), len(self.plan.methods)), np.nan)
        for person, method, mean in rows:
            table[people.index(person), self.plan.methods.index(method)] = mean
        (count,) = self._read("select count(*) from ranks where criterion = ?", criterion)[0]
        return table, int(count) // len(self.plan.methods)

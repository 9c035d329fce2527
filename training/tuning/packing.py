"""Best-fit packing: examples into rows of a fixed capacity, none of them cut."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np


def best_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Rows of example numbers whose lengths (each at most `capacity`) sum up to at most `capacity`.

    Best-fit decreasing (Ding et al. 2024, arXiv 2404.10830): from the longest on, each example goes where the least room is left
    behind it. Equal lengths keep their order, so that equal input gives equal rows.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # room -> rows that have just so much
    rooms: list[int] = []  # its keys, sorted
    for number in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[number])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[at]
        rows[row].append(number)
        left = room - length
        if left:
            if left not in with_room:
                with_room[left] = []
                insort(rooms, left)
            with_room[left].append(row)
    return rows

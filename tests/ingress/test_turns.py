"""Whoever sends much at once is read in turns with the others, in order, and not while it is stopped."""

from __future__ import annotations

import asyncio

from edge_runtime.ingress.turns import SLICE, Turns


class Transport(asyncio.Transport):
    """Knows whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True
        self.closing = False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.closing


async def turn() -> None:
    await asyncio.sleep(0)


def pattern(size: int) -> bytes:
    return bytes(index * 7 & 255 for index in range(size))


async def test_little_is_taken_at_once() -> None:
    transport, taken = Transport(), bytearray()
    turns = Turns(transport, taken.extend)
    turns.feed(pattern(SLICE))
    assert taken == pattern(SLICE)
    assert transport.reads


async def test_much_leaves_turns_to_others_and_is_read_no_further_meanwhile() -> None:
    transport, sizes, data = Transport(), [], pattern(3 * SLICE + 1)
    taken = bytearray()

    def take(data: bytes) -> None:
        taken.extend(data)
        sizes.append(len(data))

    turns = Turns(transport, take)
    turns.feed(data)
    for count in range(1, 5):
        assert len(sizes) == count, "one slice in each turn of the event loop"
        assert not transport.reads
        await turn()
    assert transport.reads
    assert taken == data
    assert max(sizes) == SLICE


async def test_nothing_is_taken_while_it_is_stopped_and_nothing_is_lost() -> None:
    transport, taken, data = Transport(), bytearray(), pattern(4 * SLICE)

    def take(data: bytes) -> None:
        taken.extend(data)
        if len(taken) == 2 * SLICE:
            turns.pause()

    turns = Turns(transport, take)
    turns.feed(data)
    for _ in range(10):
        await turn()
    assert len(taken) == 2 * SLICE
    turns.feed(b"read before it was stopped")
    assert turns.paused
    assert not transport.reads
    turns.resume()
    assert not transport.reads, "what waits comes first"
    for _ in range(10):
        await turn()
    assert taken == data + b"read before it was stopped"
    assert transport.reads


async def test_a_stop_between_two_turns_holds_and_one_without_a_rest_is_the_transports() -> None:
    transport, taken = Transport(), bytearray()
    turns = Turns(transport, taken.extend)
    turns.feed(pattern(2 * SLICE))
    turns.pause()
    for _ in range(5):
        await turn()
    assert len(taken) == SLICE
    turns.resume()
    for _ in range(5):
        await turn()
    assert len(taken) == 2 * SLICE
    turns.pause()
    assert not transport.reads
    turns.resume()
    assert transport.reads


async def test_what_waits_when_the_connection_ends_is_not_taken() -> None:
    transport, taken = Transport(), bytearray()
    turns = Turns(transport, taken.extend)
    turns.feed(pattern(3 * SLICE))
    assert turns.end() == pattern(3 * SLICE)[SLICE:]
    await turn()
    assert len(taken) == SLICE
    closing = Turns(transport, taken.extend)
    closing.feed(pattern(3 * SLICE))
    transport.closing = True
    await turn()
    assert len(taken) == 2 * SLICE

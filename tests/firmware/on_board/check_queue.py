"""The ring of readings: nothing leaves before it is acknowledged, and what has to go is known."""

from edge_device.queue import Queue


def reading(seq, size=1):
    return (seq, "k", seq * 10, b"x" * size)


def seqs(readings):
    return [r[0] for r in readings]


def filled(slots, number, max_bytes=1000):
    queue = Queue(slots, max_bytes)
    for seq in range(number):
        assert queue.push(reading(seq)) == []
    return queue


def check_order_and_batches():
    queue = filled(10, 5)
    assert seqs(queue.take(2, 1000)) == [0, 1]
    assert seqs(queue.take(16, 1000)) == [2, 3, 4]
    assert queue.take(16, 1000) == []
    assert len(queue) == 5


def check_a_reading_stays_until_it_is_acknowledged():
    queue = filled(10, 3)
    queue.take(3, 1000)
    queue.rewind()
    assert seqs(queue.take(3, 1000)) == [0, 1, 2]
    queue.acknowledge(0, 3)
    assert len(queue) == 0
    queue.rewind()
    assert queue.take(3, 1000) == []


def check_acknowledgements_in_any_order():
    queue = filled(10, 6)
    for _ in range(3):
        queue.take(2, 1000)
    queue.acknowledge(2, 2)
    queue.acknowledge(2, 2)
    assert len(queue) == 6
    queue.acknowledge(0, 2)
    assert len(queue) == 2
    queue.acknowledge(4, 2)
    assert len(queue) == 0


def check_what_was_acknowledged_out_of_order_is_not_sent_again():
    queue = filled(10, 6)
    queue.take(2, 1000)
    queue.take(2, 1000)
    queue.acknowledge(2, 2)
    queue.rewind()
    assert seqs(queue.take(16, 1000)) == [0, 1]
    assert seqs(queue.take(16, 1000)) == [4, 5]


def check_the_oldest_goes_when_full():
    queue = filled(4, 4)
    assert seqs(queue.push(reading(4))) == [0]
    assert seqs(queue.push(reading(5))) == [1]
    assert seqs(queue.take(16, 1000)) == [2, 3, 4, 5]


def check_what_is_on_its_way_does_not_go():
    queue = filled(4, 4)
    queue.take(2, 1000)
    assert seqs(queue.push(reading(4))) == [2]
    queue.take(16, 1000)
    assert seqs(queue.push(reading(5))) == [5]
    queue.acknowledge(0, 2)
    assert queue.push(reading(6)) == []
    queue.rewind()
    assert seqs(queue.take(2, 1000)) == [3, 4]


def check_bytes_are_bounded_too():
    queue = Queue(100, 10)
    for seq in range(3):
        assert queue.push(reading(seq, 3)) == []
    assert seqs(queue.push(reading(3, 6))) == [0, 1]
    assert not queue.has_room(2)
    assert queue.has_room(1)
    queue.take(1, 1000)
    queue.acknowledge(2, 1)
    assert queue.has_room(4)


def check_a_packet_is_bounded_but_never_empty():
    queue = Queue(10, 1000)
    queue.push(reading(0, 200))
    queue.push(reading(1, 10))
    queue.push(reading(2, 10))
    assert seqs(queue.take(16, 100)) == [0]
    assert seqs(queue.take(16, 100)) == [1, 2]


def check_a_gap_ends_a_packet():
    queue = Queue(10, 1000)
    for seq in (0, 1, 5, 6):
        queue.push(reading(seq))
    assert seqs(queue.take(16, 1000)) == [0, 1]
    assert seqs(queue.take(16, 1000)) == [5, 6]


def check_the_ring_against_a_plain_list():
    queue = Queue(5, 30)
    waiting = []
    flying = []
    state = 12345
    for seq in range(600):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        action = state >> 16 & 3
        if action < 2:
            new = reading(seq, (state >> 20) % 9 + 1)
            for gone in queue.push(new):
                if gone is new:
                    new = None
                else:
                    assert gone == waiting.pop(0)
            if new:
                waiting.append(new)
        elif action == 2:
            batch = queue.take(2, 1000)
            assert batch == waiting[: len(batch)]
            flying += batch
            del waiting[: len(batch)]
        elif flying:
            if state >> 24 & 1:
                one = flying.pop((state >> 18) % len(flying))
                queue.acknowledge(one[0], 1)
            else:
                queue.rewind()
                waiting = flying + waiting
                flying = []
        assert len(waiting) + len(flying) <= 5
    queue.rewind()
    left = []
    while True:
        batch = queue.take(1, 1000)
        if not batch:
            break
        left += batch
    assert left == flying + waiting

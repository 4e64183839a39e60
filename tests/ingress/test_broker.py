"""The broker's tree of subscriptions, checked against the plain definition of what a filter covers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ingress.broker.message import Counters, Limits, Message
from edge_runtime.ingress.broker.session import Session
from edge_runtime.ingress.broker.tree import Subscription, Tree, covers
from edge_runtime.ingress.broker.users import User
from edge_runtime.proto import mqtt

LEVELS = st.sampled_from(("", "a", "b", "$SYS"))
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = st.builds(
    lambda levels, rest: "/".join([*levels, "#"] if rest else levels),
    st.lists(st.one_of(LEVELS, st.just("+")), max_size=4),
    st.booleans(),
).filter(bool)


def session(name: str = "c") -> Session:
    return Session("u", name, Limits(), Counters())


@given(st.lists(FILTERS, max_size=8, unique=True), st.lists(st.integers(0, 7)), TOPICS)
def test_the_tree_finds_what_matching_each_filter_would(patterns: list[str], gone: list[int], topic: str) -> None:
    tree, one = Tree(), session()
    subscriptions = [Subscription(one, pattern, 0) for pattern in patterns]
    owners = [session(str(number)) for number in range(len(patterns))]
    for subscription, owner in zip(subscriptions, owners, strict=True):
        subscription.session = owner
        tree.add(subscription)
    removed = {index for index in gone if index < len(patterns)}
    for index in removed:
        tree.remove(subscriptions[index])
        tree.remove(subscriptions[index])
    kept = [s for index, s in enumerate(subscriptions) if index not in removed]
    assert tree.count == len(kept)
    found, _ = tree.match(topic)
    assert sorted(s.pattern for s in found) == sorted(s.pattern for s in kept if mqtt.matches(s.pattern, topic))


@given(FILTERS)
def test_a_tree_that_was_left_by_all_is_empty(pattern: str) -> None:
    tree, one = Tree(), session()
    for full in (pattern, f"$share/g/{pattern}"):
        subscription = Subscription(one, full, 0)
        tree.add(subscription)
        tree.remove(subscription)
    assert tree.count == 0
    assert not tree.concerns(pattern.split("/")[0])


@given(FILTERS, FILTERS, TOPICS)
def test_who_may_use_a_filter_may_use_no_topic_beyond_it(permitted: str, pattern: str, topic: str) -> None:
    if covers(permitted, pattern) and mqtt.matches(pattern, topic):
        assert mqtt.matches(permitted, topic)


@pytest.mark.parametrize(
    ("permitted", "pattern", "allowed"),
    [
        ("home/#", "home/#", True),
        ("home/#", "home", True),
        ("home/#", "home/+/x", True),
        ("home/+", "home/#", False),
        ("home/+", "home/+", True),
        ("home/+", "home/x/y", False),
        ("home/x", "home/+", False),
        ("#", "$SYS/#", False),
        ("#", "/devices/+/events/#", True),
        ("+/x", "#", False),
    ],
)
def test_permissions_by_example(permitted: str, pattern: str, allowed: bool) -> None:
    assert covers(permitted, pattern) is allowed
    user = User("u", b"", 0, [], [permitted])
    assert user.may_subscribe(f"$share/g/{pattern}") is allowed


class Link:
    """A connection that notes what it is given."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.sent: list[tuple[int, bool]] = []
        self.releases: list[int] = []
        self.writable = True

    def publish(
        self, message: Message, qos: int, retain: bool, ids: tuple[int, ...], packet_id: int, dup: bool
    ) -> bool:
        self.sent.append((packet_id, dup))
        return True

    def release(self, packet_id: int) -> None:
        self.releases.append(packet_id)

    def taken_over(self) -> None:
        raise AssertionError("nobody takes over here")

    def drop(self, why: str) -> None:
        raise AssertionError(why)


@given(st.lists(st.tuples(st.sampled_from(("offer", "ack", "resume", "late")), st.integers(0, 5)), max_size=60))
def test_whatever_happens_the_window_holds_and_nothing_is_lost_or_overtaken(steps: list[tuple[str, int]]) -> None:
    """[MQTT-3.3.4-9], [MQTT-4.4.0-1], [MQTT-4.6.0-6]."""
    one, link = session(), Link(3)
    one.resume(link, 0)
    offered: list[int] = []
    acknowledged: list[int] = []
    unstored = []
    for what, number in steps:
        flying = [pid for pid in dict(link.sent) if pid not in acknowledged]
        if what in ("offer", "late"):
            entry = one.offer(Message("t", b"", 1), 1, False, (), keep=what == "late")
            offered.append(entry.packet_id)
            if what == "late":
                unstored.append(entry)
        elif what == "ack" and flying:
            pid = flying[number % len(flying)]
            assert one.acknowledged(pid)
            assert not one.acknowledged(pid)
            acknowledged.append(pid)
        elif what == "resume":
            link = Link(3)
            one.resume(link, 0)
        if unstored and number == 5:
            unstored.pop(0).stored = True
        one.pump(0)
        assert len({pid for pid, _ in link.sent} - set(acknowledged)) <= 3
        firsts = list(dict.fromkeys(pid for pid, _ in link.sent))
        assert firsts == sorted(firsts)
    for entry in unstored:
        entry.stored = True
    one.pump(0)
    while len(acknowledged) < len(offered):
        (pid, *_) = [pid for pid, _ in link.sent if pid not in acknowledged]
        one.acknowledged(pid)
        acknowledged.append(pid)
        one.pump(0)
    assert sorted(acknowledged) == sorted(offered)
    assert len(one) == 0
    assert one.bytes == 0

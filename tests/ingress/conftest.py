from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from edge_runtime.ingress.mqtt import MqttLimits
from tests.ingress.mqtt_house import House

Build = Callable[[MqttLimits], Awaitable[House]]


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    """Builds houses with limits of their own."""
    houses: list[House] = []

    async def one(limits: MqttLimits) -> House:
        houses.append(await House.build(limits))
        return houses[-1]

    yield one
    for each in houses:
        await each.tear_down()


@pytest.fixture
async def house(build: Build) -> House:
    """A front door with the usual limits."""
    return await build(MqttLimits())

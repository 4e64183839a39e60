"""What the API needs of the gateway: the one seam between the planes and whoever composes the house."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from edge_runtime.flows.deadletters import DeadLetters
from edge_runtime.flows.lineage import Lineage
from edge_runtime.functions.secrets import Secrets
from edge_runtime.ingress.apps import Apps
from edge_runtime.planes.backups import Saved
from edge_runtime.planes.control import FlowControl
from edge_runtime.planes.deployments import Deployments
from edge_runtime.planes.fleet import Fleet
from edge_runtime.planes.inventory import Inventory
from edge_runtime.planes.messages import AppKey, AppRow, Deploy, Deployed, Health, Line, Status
from edge_runtime.planes.scaling import AppScaling


class House(Protocol):
    """Everything that can be asked of a running gateway. Errors are `EdgeError`s."""

    deployments: Deployments
    """Apps and their versions."""
    control: FlowControl
    """Verbs on flows."""
    inventory: Inventory
    """The devices."""
    fleet: Fleet
    """What the devices run."""
    scaling: AppScaling
    """How many instances apps have, and why."""
    secrets: Secrets
    """What functions may read by name."""
    mqtt_users: Apps
    """Programs that use MQTT."""
    letters: DeadLetters
    lineage: Lineage

    def health(self) -> Health:
        """Whether it does all that it promises just now."""
        ...

    def status(self) -> Status:
        """The gateway at a glance."""
        ...

    async def deploy(self, request: Deploy) -> Deployed:
        """Check an app in the sandbox and, unless only that was asked, put it live."""
        ...

    async def app_token(self, app: str) -> AppKey:
        """Give an app a new token for its endpoints; the old one is void."""
        ...

    async def backup(self, to: Path) -> Saved:
        """Back the gateway up into a new folder."""
        ...

    def apps(self) -> list[AppRow]:
        """The live apps."""
        ...

    def lend_port(self, path: str, seconds: float) -> bool:
        """Leave a serial port to somebody else for so long (0: no more); True if the gateway had it."""
        ...

    def tail(self, after: int | None, follow: bool) -> AsyncIterator[Line]:
        """Records after an offset (None: from now on), and with `follow` those that come."""
        ...

"""What the record says of an agent."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StartedAgent(BaseModel):
    """What an agent has said of itself, and its `address` as the controller sees it. `device`: what
    its devices are called; `devices`: None where any number of workers fits. `environment`:
    what it gives to its workers."""

    model_config = ConfigDict(frozen=True)

    agent: str = ""
    island: str
    node: str
    pid: int | None = None
    address: str = ""
    accelerator: str = ""
    device: str = ""
    devices: int | None = None
    versions: dict[str, str] = {}
    environment: dict[str, str] = {}
    ray_node: str | None = None

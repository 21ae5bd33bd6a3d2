"""Agents as the record has them."""

from dougong.records.event.agents import StartedAgent


def test_a_record_of_an_older_release_has_defaults() -> None:
    agent = StartedAgent.model_validate({"island": "east", "node": "forge"})
    assert (agent.device, agent.devices, agent.environment) == ("", None, {})

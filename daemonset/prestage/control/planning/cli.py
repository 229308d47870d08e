"""`prestage control planner`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--namespace", default="prestage", show_default=True, help="Where prestage is installed, and its lease.")
@click.option("--broker", required=True, help="https://prestage-broker.NAMESPACE.svc:8443")
@click.option("--broker-ca", required=True, type=click.Path(path_type=Path), help="The broker's authorities, as PEM.")
@click.option("--broker-token", required=True, type=click.Path(path_type=Path), help="A token with the broker's audience.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: the pod's service account.")
@click.option("--health", default="0.0.0.0:8081", show_default=True, help="HOST:PORT of /healthz and /metrics.")
@click.option("--lease-duration", default=15.0, show_default=True, help="Seconds after which a lost leader is replaced.")
@click.option("--peers/--no-peers", default=False, show_default=True, help="Tell nodes which others hold an artifact.")
@click.option(
    "--capacity-buffers/--no-capacity-buffers", default=False, show_default=True, help="Ask the autoscaler for nodes in time."
)
def planner(
    namespace: str,
    broker: str,
    broker_ca: Path,
    broker_token: Path,
    kubeconfig: Path | None,
    health: str,
    lease_duration: float,
    peers: bool,
    capacity_buffers: bool,
) -> None:
    """Turns what runs and waits into a plan for every node; one replica leads, others wait."""
    import asyncio

    import uvloop

    from prestage.cacher.agent.logs import set_up
    from prestage.control.planning.app import PlannerConfig, serve
    from prestage.kube.leases import Terms
    from prestage.kube.settings import KubeSettings
    from prestage.planner.plan import Rules
    from prestage.wire.broker_client import BrokerSettings

    set_up(as_json=True)
    config = PlannerConfig(
        namespace=namespace,
        broker=BrokerSettings(broker, broker_token, broker_ca, deadline_s=60.0),
        health=_address(health),
        kube=KubeSettings(kubeconfig=kubeconfig, user_agent="prestage-planner"),
        terms=Terms(lease_duration, lease_duration * 2 / 3, lease_duration * 2 / 15),
        rules=Rules(peers=peers),
        capacity_buffers=capacity_buffers,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config))


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise click.UsageError(f"{text!r} is no HOST:PORT")
    return host.strip("[]"), int(port)

"""`prestage control broker`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from prestage.control.broker.app import Address


@click.command()
@click.option("--listen", default="0.0.0.0:8443", show_default=True, help="HOST:PORT of the HTTPS endpoints.")
@click.option("--health", default="0.0.0.0:8081", show_default=True, help="HOST:PORT of /healthz and /metrics.")
@click.option("--namespace", default="prestage", show_default=True, help="Where prestage is installed.")
@click.option("--service", default="prestage-broker", show_default=True, help="The Service in front of it.")
@click.option("--name", "names", multiple=True, help="Another name or address in its certificate. May be repeated.")
@click.option("--node-account", default="prestage-node", show_default=True, help="Service account of the nodes' agents.")
@click.option("--planner-account", default="prestage-planner", show_default=True, help="Service account of the planner.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: the pod's service account.")
def broker(
    listen: str,
    health: str,
    namespace: str,
    service: str,
    names: tuple[str, ...],
    node_account: str,
    planner_account: str,
    kubeconfig: Path | None,
) -> None:
    """Resolves refs with their namespace's credentials, and lets nodes fetch and pods mount what they may."""
    import asyncio
    import os

    import uvloop

    from prestage.cacher.agent.logs import set_up
    from prestage.control.broker.app import BrokerConfig, serve
    from prestage.control.broker.identity import Accounts
    from prestage.kube.settings import KubeSettings

    set_up(as_json=True)
    config = BrokerConfig(
        listen=_address(listen),
        health=_address(health),
        accounts=Accounts(namespace, node_account, planner_account),
        service=service,
        names=names,
        kube=KubeSettings(kubeconfig=kubeconfig, user_agent="prestage-broker"),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config, os.environ))


def _address(text: str) -> Address:
    from prestage.control.broker.app import Address

    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise click.UsageError(f"{text!r} is no HOST:PORT")
    return Address(host.strip("[]"), int(port))

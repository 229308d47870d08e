"""`prestage node`: the containers of one node. What a subcommand needs is imported when it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from prestage.cacher.cli.agent import Address
from prestage.cacher.cli.session import Duration, Rate, Size, root_option
from prestage.cacher.transfer.schedule import Schedule
from prestage.node.mountpoint import mountpoint

_Command = TypeVar("_Command", bound=Callable[..., object])
_FILE = click.Path(path_type=Path)


@click.group(invoke_without_command=True)
@click.option("--standalone", is_flag=True, help="Without Kubernetes: stage what a file says, in time.")
@click.option("--demand", type=_FILE, help="With --standalone: which models are wanted when.")
@root_option
@click.pass_context
def node(context: click.Context, standalone: bool, demand: Path | None, root: Path | None) -> None:
    """The parts that run on every node; the chart starts them."""
    if context.invoked_subcommand is not None:
        if standalone or demand is not None:
            raise click.UsageError("--standalone and --demand go without a subcommand")
        return
    if not standalone or demand is None:
        raise click.UsageError("name a part (agent, csi, images), or say --standalone --demand FILE")
    from prestage.cacher.agent import logs
    from prestage.cacher.cli.session import checked_root
    from prestage.node.standalone.app import run

    logs.set_up(as_json=False)
    run(checked_root(root), demand)


node.add_command(mountpoint)


def _common(command: _Command) -> _Command:
    for option in (
        click.option("--log", "log_format", type=click.Choice(["json", "text"]), default="json", show_default=True),
        click.option("--kubeconfig", type=_FILE, help="Default: the pod's own service account."),
        click.option("--broker-token", type=_FILE, required=True, help="File of a token for the broker's audience."),
        click.option("--broker-ca", type=_FILE, required=True, help="PEM file of the broker's authorities."),
        click.option("--broker", required=True, metavar="URL", help="https://prestage-broker.NAMESPACE.svc:8443"),
        click.option("--node", "node_name", required=True, envvar="NODE_NAME", help="Name of the Node."),
    ):
        command = option(command)
    return command


@node.command()
@root_option
@click.option("--socket", type=_FILE, required=True, help="Where the csi container asks: /run/prestage/agent.sock")
@click.option("--budget", type=Size(), help="Most bytes the store may hold, e.g. 500G; default: the disk, less the margin.")
@click.option("--margin", type=Size(), help="Bytes left free on the disk.")
@click.option("--listen", default="127.0.0.1:9464", show_default=True, help="HOST:PORT of metrics and health, or none.")
@click.option("--rate", type=Rate(), help='Most bytes a second in, by time of day too: "200M, 22:00-06:00=unlimited".')
@click.option("--beside-images", is_flag=True, help="An images container runs beside: what it reported is current.")
@_common
def agent(
    root: Path | None,
    socket: Path,
    budget: int | None,
    margin: int | None,
    listen: str,
    rate: Schedule | None,
    beside_images: bool,
    node_name: str,
    broker: str,
    broker_ca: Path,
    broker_token: Path,
    kubeconfig: Path | None,
    log_format: str,
) -> None:
    """Own the node's store: stage what its NodeCache says, by what the broker gives, and report."""
    from prestage.cacher.agent import logs
    from prestage.cacher.agent.config import AgentConfig
    from prestage.cacher.cli.session import checked_root
    from prestage.node.app import NodeAgentConfig, run
    from prestage.node.trust import Trusted
    from prestage.wire.broker_client import BrokerSettings

    trusted = Trusted(os.environ.get("PRESTAGE_TRUSTED_AUTHORITIES", "").split())
    config = AgentConfig(
        root=checked_root(root),
        socket=socket.absolute(),
        budget_bytes=budget,
        margin_bytes=margin,
        listen=Address().convert(listen, None, None),
        rate=rate,
        trusted=trusted,
    )
    logs.set_up(as_json=log_format == "json")
    settings = BrokerSettings(broker, broker_token, broker_ca)
    run(NodeAgentConfig(config, node_name, settings, kubeconfig, trusted, is_beside_images=beside_images))


@node.command()
@click.option("--agent", "agent_socket", type=_FILE, required=True, help="The agent's socket: /run/prestage/agent.sock")
@click.option("--endpoint", type=_FILE, required=True, help="The driver's socket here; grants are kept beside it: /csi/csi.sock")
@click.option("--registration", type=_FILE, required=True, help="The kubelet's plugins_registry, here.")
@click.option("--driver-path", type=_FILE, required=True, help="The driver's socket as the kubelet sees it.")
@click.option("--kubelet-dir", type=_FILE, default=Path("/var/lib/kubelet"), show_default=True, help="Where its pods are.")
@_common
def csi(
    agent_socket: Path,
    endpoint: Path,
    registration: Path,
    driver_path: Path,
    kubelet_dir: Path,
    node_name: str,
    broker: str,
    broker_ca: Path,
    broker_token: Path,
    kubeconfig: Path | None,
    log_format: str,
) -> None:
    """Mount models into pods: the CSI driver, which registers itself with the kubelet."""
    from prestage.cacher.agent import logs
    from prestage.node.csi.app import CsiConfig, run
    from prestage.wire.broker_client import BrokerSettings

    logs.set_up(as_json=log_format == "json")
    run(
        CsiConfig(
            agent=agent_socket,
            endpoint=endpoint.absolute(),
            registration=registration,
            driver_path=driver_path,
            node=node_name,
            broker=BrokerSettings(broker, broker_token, broker_ca),
            kubeconfig=kubeconfig,
            kubelet_dir=kubelet_dir,
        )
    )


@node.command()
@click.option("--containerd", "socket", type=_FILE, required=True, help="containerd's socket: root on the node.")
@click.option("--snapshotter", help="Default: the one that the kubelet's pulls use.")
@click.option("--keep", "lease_s", type=Duration(), default="24h", show_default=True, help="How long it stays once we are gone.")
@click.option("--drop-blobs", is_flag=True, help="Keep only what is unpacked: saves the compressed layers' bytes.")
@click.option(
    "--high-water", type=click.IntRange(1, 100), default=80, show_default=True, help="Most per cent of containerd's disk."
)
@click.option(
    "--in-place", is_flag=True, help="Put layers' files into containerd's folder, which must be writable here: half the CPU."
)
@click.option("--listen", default="127.0.0.1:9465", show_default=True, help="HOST:PORT of metrics and health, or none.")
@click.option("--rate", type=Rate(), help='Most bytes a second in, by time of day too: "200M, 22:00-06:00=unlimited".')
@_common
def images(
    socket: Path,
    snapshotter: str | None,
    lease_s: float,
    drop_blobs: bool,
    high_water: int,
    in_place: bool,
    listen: str,
    rate: Schedule | None,
    node_name: str,
    broker: str,
    broker_ca: Path,
    broker_token: Path,
    kubeconfig: Path | None,
    log_format: str,
) -> None:
    """Stage the images of the NodeCache into containerd, and report."""
    from prestage.cacher.agent import logs
    from prestage.images.stager import StagingTerms
    from prestage.node.images.app import ImagesConfig, run
    from prestage.wire.broker_client import BrokerSettings

    logs.set_up(as_json=log_format == "json")
    run(
        ImagesConfig(
            socket=socket,
            node=node_name,
            broker=BrokerSettings(broker, broker_token, broker_ca),
            kubeconfig=kubeconfig,
            snapshotter=snapshotter,
            terms=StagingTerms(lease_s, drop_blobs, high_water / 100, in_place),
            rate=rate,
            listen=Address().convert(listen, None, None),
        )
    )

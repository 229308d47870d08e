"""`prestage control admission|ungate|manifests`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from prestage.cacher.cli.agent import Address
from prestage.cacher.errors import Busy, Misconfigured

kubeconfig_option = click.option(
    "--kubeconfig", type=click.Path(path_type=Path), help="Default: the pod's service account, else KUBECONFIG."
)


@click.command()
@click.option("--listen", type=Address(), default="0.0.0.0:9443", show_default=True, help="HOST:PORT of the webhook.")
@click.option(
    "--health", type=Address(), default="0.0.0.0:8081", show_default=True, help="HOST:PORT of /healthz and /metrics, or none."
)
@click.option("--namespace", default="prestage", show_default=True, help="Ours: of Secret, ConfigMap and the planner's lease.")
@click.option("--service", default="prestage-admission", show_default=True, help="The Service in front of the webhook.")
@click.option(
    "--certificate-every", "refresh_s", default=300.0, show_default=True, help="Seconds between looks at the certificate."
)
@click.option("--name", "names", multiple=True, help="One more name or address for the certificate.")
@kubeconfig_option
def admission(
    listen: tuple[str, int] | None,
    health: tuple[str, int] | None,
    namespace: str,
    service: str,
    refresh_s: float,
    names: tuple[str, ...],
    kubeconfig: Path | None,
) -> None:
    """The webhook: pods get their models, mistakes are refused. Replicas share a certificate."""
    import uvloop

    from prestage.cacher.agent import logs
    from prestage.control.admission.app import AdmissionConfig, serve

    if listen is None:
        raise Misconfigured("--listen none: a webhook that nobody can call", hint="write --listen 0.0.0.0:9443")
    logs.set_up(as_json=True)
    config = AdmissionConfig(
        listen=listen,
        health=health,
        namespace=namespace,
        service=service,
        kubeconfig=kubeconfig,
        names=names,
        refresh_s=refresh_s,
    )
    uvloop.run(serve(config))


@click.command()
@kubeconfig_option
@click.option("--capacity-buffers", is_flag=True, help="Delete the CapacityBuffers of ours, too.")
def ungate(kubeconfig: Path | None, capacity_buffers: bool) -> None:
    """Take our gate off every pod: before an uninstall, or by hand when in doubt."""
    from prestage.control.capacity.letting_go import let_go
    from prestage.control.gates.ungate import ungate as all_off
    from prestage.kube.client import KubeApi
    from prestage.kube.settings import KubeSettings

    async def work() -> tuple[int, list[str]]:
        async with await KubeApi.connect(KubeSettings(kubeconfig=kubeconfig)) as api:
            if capacity_buffers:
                click.echo(f"{await let_go(api)} CapacityBuffers deleted")
            return await all_off(api)

    released, failures = asyncio.run(work())
    click.echo(f"{released} released")
    if failures:
        raise Busy("; ".join(failures), hint="run it again")


@click.command()
@click.option("--namespace", default="prestage", show_default=True, help="Ours.")
@click.option("--service", default="prestage-admission", show_default=True, help="The Service in front of the webhook.")
@click.option("--node-account", default="prestage-node", show_default=True, help="The agents' service account.")
@click.option(
    "--mutating",
    type=click.Choice(["v1", "v1beta1", "none"]),
    default="v1",
    show_default=True,
    help="MutatingAdmissionPolicy as served.",
)
def manifests(namespace: str, service: str, node_account: str, mutating: str) -> None:
    """Print what is registered with the API server: webhooks and policies, as YAML."""
    import yaml

    from prestage.control.admission.manifests import Client
    from prestage.control.admission.manifests import manifests as made

    found = made(Client(namespace, service), node_account=node_account, mutating=None if mutating == "none" else mutating)
    click.echo(yaml.safe_dump_all(found, sort_keys=False, width=10_000), nl=False)

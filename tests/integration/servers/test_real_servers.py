"""The real servers come up, serve what a client expects of them, and go."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener, urlopen

import pytest

from servers.certs import Authority
from servers.hostile import Hostile
from servers.hub import Hub
from servers.nginx import Nginx
from servers.proxy import Proxy
from servers.toxiproxy import Toxiproxy
from servers.versitygw import Versitygw

DATA = bytes(range(256)) * 4096


@pytest.fixture
def file_on_nginx(nginx: Nginx) -> Nginx:
    (nginx.docroot / "f.bin").write_bytes(DATA)
    return nginx


def test_nginx_serves_ranges_over_http_and_https(file_on_nginx: Nginx, authority: Authority) -> None:
    asked = Request(file_on_nginx.url("/f.bin"), headers={"Range": "bytes=10-19"})
    with urlopen(asked, timeout=5) as answer:
        assert (answer.status, answer.read()) == (206, DATA[10:20])
    with urlopen(file_on_nginx.tls_url("/f.bin"), timeout=5, context=authority.client_context()) as answer:
        assert answer.read() == DATA
    with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urlopen(file_on_nginx.tls_url("/f.bin"), timeout=5)


@pytest.mark.needs("nginx")
def test_nginx_keeps_to_a_rate(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(DATA)
    with Nginx(tmp_path, tmp_path / "state", rate_bytes_per_s=400_000) as slow:
        started_s = time.monotonic()
        with urlopen(slow.url("/f.bin"), timeout=10) as answer:
            assert answer.read() == DATA
        assert 0.5 < time.monotonic() - started_s < 5


def test_versitygw_signs_versions_and_checksums(versitygw: Versitygw) -> None:
    client = versitygw.client()
    try:
        client.create_bucket(Bucket="house")
        client.put_bucket_versioning(Bucket="house", VersioningConfiguration={"Status": "Enabled"})
        first = client.put_object(Bucket="house", Key="a/f.bin", Body=DATA)["VersionId"]
        client.put_object(Bucket="house", Key="a/f.bin", Body=b"newer", ChecksumAlgorithm="CRC64NVME")
        old = client.get_object(Bucket="house", Key="a/f.bin", VersionId=first, Range="bytes=0-9")
        assert old["Body"].read() == DATA[:10]
        head = client.head_object(Bucket="house", Key="a/f.bin", ChecksumMode="ENABLED")
        assert head["ChecksumType"] == "FULL_OBJECT"
        assert head["ChecksumCRC64NVME"]
    finally:
        client.close()
    with pytest.raises(HTTPError) as refused:
        urlopen(f"{versitygw.url}/house/a/f.bin", timeout=5)
    refused.value.close()
    assert refused.value.code == 403


def test_versitygw_speaks_tls(versitygw_tls: Versitygw) -> None:
    client = versitygw_tls.client()
    try:
        client.create_bucket(Bucket="secure")
        assert "secure" in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    finally:
        client.close()


def test_toxiproxy_slows_and_drops_what_passes(toxiproxy: Toxiproxy, hostile: Hostile) -> None:
    hostile.put("/f.bin", DATA)
    route = toxiproxy.route(hostile.port)
    toxic = route.add("latency", latency=300)
    started_s = time.monotonic()
    with urlopen(route.url("/f.bin"), timeout=10) as answer:
        assert answer.read() == DATA
    assert time.monotonic() - started_s > 0.3
    route.remove(toxic)
    route.enabled(False)
    with pytest.raises(URLError, match="refused"):
        urlopen(route.url("/f.bin"), timeout=5)


def test_the_proxy_relays_requests_and_tunnels_for_those_who_know_the_password(authority: Authority) -> None:
    with (
        Hostile({"/f.bin": DATA}) as plain,
        Hostile({"/f.bin": DATA}, tls=authority.server_context(), name="localhost") as secure,
        Proxy(user="u", password="p") as proxy,
    ):
        through = ProxyHandler({"http": proxy.url, "https": proxy.url})
        opener = build_opener(through, HTTPSHandler(context=authority.client_context()))
        for server in (plain, secure):
            with opener.open(server.url("/f.bin"), timeout=5) as answer:
                assert answer.read() == DATA
        assert proxy.asked == [f"GET {plain.url('/f.bin')}", f"CONNECT localhost:{secure.port}"]
        wrong = build_opener(ProxyHandler({"http": proxy.url.replace("u:p@", "u:q@")}))
        with pytest.raises(HTTPError) as refused:
            wrong.open(plain.url("/f.bin"), timeout=5)
        refused.value.close()
        assert (refused.value.code, proxy.refused) == (407, 1)


def test_the_hostile_server_speaks_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with Hostile({"/f.bin": DATA}, host="::1") as server, urlopen(server.url("/f.bin"), timeout=5) as answer:
        assert answer.read() == DATA


def write_repository(root: Path, *, settings: str = "{}") -> None:
    folder = root / "org" / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "sub" / "model.safetensors").write_bytes(DATA)
    (folder / ".hub.json").write_text(settings)


_DOWNLOAD = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("org/model", cache_dir=sys.argv[1]))
"""


def download(hub: Hub, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin:/bin", **environment}
    argv = [sys.executable, "-c", _DOWNLOAD, str(cache)]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_unmodified_hub_client_downloads_from_our_hub(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    write_repository(hub.root)
    hub.reload()
    done = download(hub, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    snapshot = Path(done.stdout.strip())
    assert snapshot.name == hub.commit("org/model")
    assert (snapshot / "sub" / "model.safetensors").read_bytes() == DATA
    assert (snapshot / "config.json").read_text() == '{"a": 1}'
    assert any(seen.path.startswith("/repos/") and not seen.authorized for seen in hub.log)


def test_a_gated_repository_wants_a_token_that_was_let_in(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    write_repository(hub.root, settings='{"gated": true, "tokens": ["hf_ok"]}')
    hub.reload()
    assert "GatedRepoError" in download(hub, tmp_path / "none").stderr
    assert "GatedRepoError" in download(hub, tmp_path / "other", HF_TOKEN="hf_other").stderr
    assert download(hub, tmp_path / "let-in", HF_TOKEN="hf_ok").returncode == 0


def test_a_signed_url_expires_and_faults_are_used_up(hub: Hub) -> None:
    write_repository(hub.root)
    hub.reload()
    hub.faults.rate_limit, hub.faults.cdn_fails = 1, 1
    file = f"{hub.endpoint}/org/model/resolve/main/sub/model.safetensors"
    codes = []
    for _ in range(2):
        with pytest.raises(HTTPError) as refused:
            urlopen(file, timeout=5)
        refused.value.close()
        codes.append(refused.value.code)
    assert codes == [429, 503]
    with urlopen(file, timeout=5) as answer:
        signed = answer.url
        assert hashlib.sha256(answer.read()).hexdigest() in signed
    hub.faults.cdn_ttl_s = -1
    with pytest.raises(HTTPError, match="403") as expired:
        urlopen(file, timeout=5)
    expired.value.close()

"""A pod's network with everything that gives it an identity, all of it real but the two metadata services:

    192.0.2.10:443        the cluster's OpenID Connect issuer
    127.0.0.1:7078        versitygw's IAM and STS: AssumeRoleWithWebIdentity checks the token against the issuer's keys over TLS
    127.0.0.1:7077        versitygw's S3, asking that IAM: session keys, role policies, session policies
    169.254.170.23:80     EKS pod identity agent      169.254.169.254:80   instance metadata, version 2
                          both hand out sessions of that STS

A network namespace of its own, because STS refuses an issuer that is local or has a port, and because boto's chain must find
the metadata services where they always are. It ends with its first process. Needs root.

    with Pod(folder) as pod:
        pod.run([sys.executable, "-c", script], pod.web_identity)      # inside, with the environment of an EKS pod
        pod.expire_sessions()
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3

from servers.certs import Authority
from servers.identity import IdentityService
from servers.issuer import AUDIENCE, Issuer
from servers.programs import Program

ISSUER, INSTANCE, AGENT = "192.0.2.10", "169.254.169.254", "169.254.170.23"
IAM_PORT, S3_PORT = 7078, 7077
OWNER, SECRET = "AKROOT", "SKROOT"
SUBJECT = "system:serviceaccount:team:serve"
POD_TOKEN = "token-of-the-pod"
BUCKET, OTHER = "models", "other"
_TESTS = Path(__file__).resolve().parents[1]


class Pod:
    """See the module. `web_identity`, `pod_identity`, `instance`, `owner`: environments of a process inside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "pod.log").open("wb")
        paths = f"{_TESTS}:{_TESTS.parent / 'cacher'}"
        self._process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-m", "servers.pod", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**_clean(), "PYTHONPATH": paths},
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        if not ready:
            self.close()
            raise RuntimeError(f"the pod's network did not come up: {(folder / 'pod.log').read_text()[-2000:]}")
        self.role: str = json.loads(ready)["role"]
        base = {
            **_clean(),
            "PYTHONPATH": paths,
            "HOME": str(folder),
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{S3_PORT}",
            "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{IAM_PORT}",
        }
        self.instance: dict[str, str] = base
        self.owner = {**base, "AWS_ACCESS_KEY_ID": OWNER, "AWS_SECRET_ACCESS_KEY": SECRET}
        self.web_identity = {**base, "AWS_ROLE_ARN": self.role, "AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "token")}
        (folder / "pod-token").write_text(POD_TOKEN)
        self.pod_identity = {
            **base,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{AGENT}/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(folder / "pod-token"),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process.stdout.close()
        self._log.close()

    def run(self, argv: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run inside; the caller looks at the code."""
        with self.start(argv, environ) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def start(self, argv: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start inside, with pipes."""
        inside = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", *argv]
        return subprocess.Popen(
            inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(environ)
        )

    def asked(self) -> list[str]:
        """What the metadata services were asked so far: method and path."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"asked\n")
        self._process.stdin.flush()
        found: list[str] = json.loads(self._process.stdout.readline())
        return found

    def expire_sessions(self) -> int:
        """Let every session that STS gave end now; how many there were."""
        count = 0
        for path in (self.folder / "iam").rglob("*.json"):
            document = json.loads(path.read_text())
            for session in document.get("sessions", {}).values():
                session["expiration"] = "2020-01-01T00:00:00Z"
                count += 1
            if document.get("sessions"):
                path.with_suffix(".new").write_text(json.dumps(document))
                path.with_suffix(".new").rename(path)
        return count


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_") and "proxy" not in name.lower()}


class _Account:
    """The account's owner: makes the provider, the role, the buckets; asks STS on behalf of the metadata services."""

    def __init__(self, folder: Path, issuer: Issuer) -> None:
        keys: dict[str, Any] = {"aws_access_key_id": OWNER, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        self._iam = boto3.client("iam", endpoint_url=f"http://127.0.0.1:{IAM_PORT}", **keys)  # type: ignore[call-overload,unused-ignore] # only s3 is typed here
        self._sts = boto3.client("sts", endpoint_url=f"http://127.0.0.1:{IAM_PORT}", **keys)  # type: ignore[call-overload,unused-ignore] # the same
        self._s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{S3_PORT}", **keys)
        self._folder, self._issuer = folder, issuer
        self.role = self._make_role()
        for bucket in (BUCKET, OTHER):
            self._s3.create_bucket(Bucket=bucket)
        self._s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})

    def _make_role(self) -> str:
        made = self._iam.create_open_id_connect_provider(Url=self._issuer.url, ClientIDList=[AUDIENCE], ThumbprintList=["0" * 40])
        trust = _policy(
            {
                "Principal": {"Federated": made["OpenIDConnectProviderArn"]},
                "Action": "sts:AssumeRoleWithWebIdentity",
                "Condition": {"StringEquals": {f"{ISSUER}:sub": SUBJECT}},
            }
        )
        role: str = self._iam.create_role(RoleName="serve", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        everything = [f"arn:aws:s3:::{bucket}{tail}" for bucket in (BUCKET,) for tail in ("", "/*")]
        reading = _policy({"Action": ["s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket"], "Resource": everything})
        self._iam.put_role_policy(RoleName="serve", PolicyName="read", PolicyDocument=reading)
        return role

    def issue(self) -> dict[str, str]:
        """A real session, in the shape of the metadata services."""
        given = self._sts.assume_role_with_web_identity(
            RoleArn=self.role, RoleSessionName="metadata", WebIdentityToken=self._issuer.token(SUBJECT), DurationSeconds=3600
        )["Credentials"]
        return {
            "AccessKeyId": given["AccessKeyId"],
            "SecretAccessKey": given["SecretAccessKey"],
            "Token": given["SessionToken"],
            "Expiration": given["Expiration"].strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _policy(statement: Mapping[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


def _main(folder: Path) -> None:
    for words in (
        ["link", "set", "lo", "up"],
        *(["addr", "add", f"{host}/32", "dev", "lo"] for host in (ISSUER, INSTANCE, AGENT)),
    ):
        subprocess.run(["ip", *words], check=True)
    for name in ("iam", "buckets", "versions"):
        (folder / name).mkdir(exist_ok=True)
    authority = Authority(folder / "issuer", names=(ISSUER,))
    keys: list[str | Path] = ["-a", OWNER, "-s", SECRET, "--quiet"]
    private = folder / "iam.sock"
    iam: list[str | Path] = ["versitygw", "--port", f"127.0.0.1:{IAM_PORT}", *keys, "iam", "--dir", folder / "iam"]
    s3: list[str | Path] = ["versitygw", "--port", f"127.0.0.1:{S3_PORT}", *keys, "--keep-alive"]
    s3 += ["--iam-standalone-endpoint", private, "posix", "--versioning-dir", folder / "versions", folder / "buckets"]
    trust = {"SSL_CERT_FILE": str(authority.ca)}
    with contextlib.ExitStack() as stack:
        issuer = stack.enter_context(Issuer(ISSUER, authority.server_context()))
        (folder / "token").write_text(issuer.token(SUBJECT))
        log = folder / "iam.log"
        stack.enter_context(Program([*iam, "--private-ports", private], port=IAM_PORT, log=log, env=trust))
        stack.enter_context(Program(s3, port=S3_PORT, log=folder / "s3.log"))
        account = _Account(folder, issuer)
        services = [IdentityService(account.issue, host=host, port=80, pod_token=POD_TOKEN) for host in (INSTANCE, AGENT)]
        for service in services:
            stack.callback(service.close)
        print(json.dumps({"role": account.role}), flush=True)
        for _ in sys.stdin:  # until the test closes it
            print(json.dumps([line for service in services for line in service.asked]), flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

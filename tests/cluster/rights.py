"""Which rights our parts use: by the API server's own audit log, against what the chart gives them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

_RULES = Path(__file__).resolve().parents[2] / "daemonset" / "chart" / "generated" / "rules"
_USER = "system:serviceaccount:prestage:prestage-"
_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts:prestage"]}, {"level": "None"}],
}


class Right(NamedTuple):
    """One of a part. `resource` with its subresource."""

    part: str
    verb: str
    group: str
    resource: str

    @property
    def power(self) -> Right:
        """What it amounts to: who may list may get, and a watch is a list that goes on."""
        return self._replace(verb="read") if self.verb in ("get", "list", "watch") else self


class Audit:
    """Of one API server: start it with `flags`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "audit.log"
        policy = folder / "audit.json"
        policy.write_text(json.dumps(_POLICY))
        self.flags: Sequence[str] = (f"--audit-policy-file={policy}", f"--audit-log-path={self._log}")

    def count(self, part: str, verbs: Sequence[str], *, leave_out: Sequence[str] = ()) -> int:
        """Requests of a part that were answered."""
        events = (json.loads(line) for line in self._log.read_text().splitlines())
        ours = [one for one in events if one["user"]["username"] == _USER + part and one["verb"] in verbs]
        return sum(one.get("objectRef", {}).get("resource") not in leave_out for one in ours)

    def seen(self) -> tuple[set[Right], set[Right]]:
        """What was done, and what was refused each time: a right that came a moment after its pod is no lack of it."""
        done, refused = set[Right](), set[Right]()
        for line in self._log.read_text().splitlines():
            event = json.loads(line)
            about, user = event.get("objectRef"), event["user"]["username"]
            if about is None or not user.startswith(_USER):
                continue
            resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
            right = Right(user.removeprefix(_USER), event["verb"], about.get("apiGroup", ""), resource)
            (refused if event["responseStatus"]["code"] == 403 else done).add(right)
        return done, refused - done


def stated() -> set[Right]:
    """All that the chart gives to what runs."""
    found = set[Right]()
    for path in _RULES.glob("*.yaml"):
        said = yaml.safe_load(path.read_text())
        for rule in (*said["cluster"], *said["namespaced"]):
            found |= {Right(said["part"], verb, rule["apiGroups"][0], one) for one in rule["resources"] for verb in rule["verbs"]}
    return found

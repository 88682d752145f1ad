"""An ssh server on each of two hosts, with keys and a configuration of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .hosts import ADDRESSES, NODES, Hosts, wait_until

#: Where Debian's server wants an empty folder.
_SEPARATION = Path("/run/sshd")


@contextmanager
def ssh_servers(hosts: Hosts, folder: Path) -> Iterator[None]:
    """Let root go from each host to each by ``ssh NAME``, with no word of anybody's own keys or known hosts."""
    folder.mkdir(parents=True)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    shutil.copyfile(folder / "user.pub", folder / "authorized_keys")
    _SEPARATION.mkdir(exist_ok=True)
    servers = []
    try:
        for node in NODES:
            (hosts.etc(node) / "ssh").mkdir()  # in the place of /etc/ssh there, where ssh looks for the client's
            (hosts.etc(node) / "ssh" / "ssh_config").write_text(_client(folder))
            (folder / f"{node}.conf").write_text(_server(folder, node))
            words = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(folder / f"{node}.conf")]
            servers.append(hosts.start(node, *words, log=folder / f"{node}.log"))
        wait_until(lambda: all("Server listening" in server.said for server in servers), 20, servers)
        yield
    finally:
        for server in servers:
            server.kill()


def _client(folder: Path) -> str:
    lines = [f"IdentityFile {folder / 'user'}", "IdentitiesOnly yes", "BatchMode yes", "LogLevel ERROR"]
    lines += ["StrictHostKeyChecking no", "UserKnownHostsFile /dev/null", "GlobalKnownHostsFile /dev/null"]
    return "\n  ".join(["Host *", *lines]) + "\n"


def _server(folder: Path, node: str) -> str:
    lines = [f"ListenAddress {ADDRESSES[node]}", "Port 22", f"HostKey {folder / 'host'}", "PidFile none", "UsePAM no"]
    lines += [f"AuthorizedKeysFile {folder / 'authorized_keys'}", "StrictModes no", "PasswordAuthentication no"]
    return "\n".join([*lines, "PermitRootLogin prohibit-password"]) + "\n"

"""Where ranks meet: names, interfaces, ports, and what a launcher has said."""

from __future__ import annotations

import fnmatch
import socket
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

import psutil

from ..train.environment import launcher_problems
from .finding import Finding, ok, problem, warning

AREA = "network"

#: Where ranks meet unless somebody says otherwise: torchrun's and deepspeed's.
_USUAL_PORT = 29500


def launcher(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Variables of a launcher that no run accepts."""
    for each in launcher_problems(environ):
        yield problem(AREA, each.where, f"{each.value}: {each.why}", each.mend)


def names() -> Iterator[Finding]:
    """Interfaces, and the address that this machine's name stands for: where gloo listens."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    addresses = {
        name: [one.address.partition("%")[0] for one in given if one.family in (socket.AF_INET, socket.AF_INET6)]
        for name, given in psutil.net_if_addrs().items()
        if name in up
    }
    outside = [name for name, given in addresses.items() if any(not ip_address(one).is_loopback for one in given)]
    yield ok(AREA, "interfaces", ", ".join(f"{name} {' '.join(given)}" for name, given in addresses.items()) or "none")
    host = socket.gethostname()
    mend = f"run: export GLOO_SOCKET_IFNAME={outside[0]} NCCL_SOCKET_IFNAME={outside[0]}" if outside else ""
    try:
        found = sorted({str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)})
    except OSError:
        says = f"{host!r} stands for no address: ranks on several machines will not find each other by it"
        yield warning(AREA, "name of this machine", says, mend or f"add {host} to /etc/hosts")
        return
    says = f"{host} stands for {', '.join(found)}"
    if outside and all(ip_address(one).is_loopback for one in found):
        says += ", which other machines cannot reach: it matters for runs over several"
        yield warning(AREA, "name of this machine", says, mend)
    else:
        yield ok(AREA, "name of this machine", says)


def chosen_interfaces(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Interfaces that variables name, and that must be there."""
    there = sorted(psutil.net_if_addrs())
    for variable in ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        given = environ.get(variable)
        if not given:
            continue
        exact = given.startswith("=") or not variable.startswith("NCCL")
        wanted = [name.strip() for name in given.removeprefix("=").split(",") if name.strip()]
        missing = [name for name in wanted if not fnmatch.filter(there, name if exact else f"{name}*")]
        if given.startswith("^") or not missing:
            yield ok(AREA, variable, given)
        else:
            mend = f"unset it, or name one of {', '.join(there)}"
            yield problem(AREA, variable, f"{given}: there is no interface {', '.join(missing)}", mend)


def ports(environ: Mapping[str, str]) -> Iterator[Finding]:
    """The port at which ranks are to meet, and the usual one."""
    given = environ.get("MASTER_PORT", "")
    port = int(given) if given.isascii() and given.isdecimal() and len(given) < 6 else None
    if given and (port is None or not 0 < port < 65_536):
        yield problem(AREA, "MASTER_PORT", f"{given!r} is no port", "set it to a number from 1 to 65535, or unset it")
        return
    address = environ.get("MASTER_ADDR", "127.0.0.1")
    if port is not None:
        if "MASTER_ADDR" in environ and not _is_here(address):
            yield ok(AREA, "MASTER_PORT", f"{port} of {address}, another machine")
        elif _is_free(port):
            yield ok(AREA, "MASTER_PORT", f"{port} is free")
        else:
            yield problem(
                AREA, "MASTER_PORT", f"{port} is in use on this machine", "choose another, or end who has it", port=port
            )
    elif not _is_free(_USUAL_PORT):
        mend = "give torchrun --standalone, or --master-port with another; ibnorm train looks for one itself"
        yield warning(AREA, "usual port", f"{_USUAL_PORT} is in use on this machine", mend, port=_USUAL_PORT)
    else:
        yield ok(AREA, "usual port", f"{_USUAL_PORT} is free")
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))  # raises where nothing may listen
    spread = _spread()
    if spread is not None and spread < 1000:
        mend = "run: sysctl net.ipv4.ip_local_port_range='32768 60999'"
        yield warning(AREA, "ports for connections", f"{spread} in all", mend)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _is_here(name: str) -> bool:
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError:
        return False
    own = {one.address for given in psutil.net_if_addrs().values() for one in given}
    return bool(found & own) or any(ip_address(one.partition("%")[0]).is_loopback for one in found)


def _spread() -> int | None:
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return None
    return int(last) - int(first) + 1

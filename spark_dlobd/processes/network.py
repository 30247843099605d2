"""Addresses and names of this machine's network interfaces. Runs on each worker."""

from __future__ import annotations

import socket

import psutil

from spark_dlobd.errors import ConfigurationError


def ipv4_interfaces() -> dict[str, str]:
    """Interface name -> its IPv4 address."""
    found: dict[str, str] = {}
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.family == socket.AF_INET:
                found.setdefault(name, address.address)
    return found


def interface_of(address: str) -> str:
    """Name of the interface that owns an IPv4 address."""
    for name, own in ipv4_interfaces().items():
        if own == address or (name == "lo" and address.startswith("127.")):
            return name
    raise ConfigurationError(
        f"No network interface of {socket.gethostname()} has the address {address}; there are "
        f"{ipv4_interfaces()}. Name one with network_interface=."
    )


def address_of(interface: str) -> str:
    """IPv4 address of an interface."""
    interfaces = ipv4_interfaces()
    if interface not in interfaces:
        raise ConfigurationError(
            f"network_interface={interface!r} does not exist on {socket.gethostname()} or has no "
            f"IPv4 address. There are {interfaces}."
        )
    return interfaces[interface]

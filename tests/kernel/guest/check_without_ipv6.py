"""A machine whose IPv6 was switched off when it booted (ipv6.disable=1)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from abi import Table, error_of
from check_files import V4, V6
from conftest import MODULE


@pytest.fixture(scope="session", autouse=True)
def _hosts() -> None:
    """In place of what others need: there can be no network with IPv6."""
    assert not Path("/proc/net/if_inet6").exists()
    subprocess.run(["modprobe", "x_tables"], check=True)
    subprocess.run(["insmod", str(MODULE)], check=True)


def test_ipv6_is_refused_whichever_way_it_goes() -> None:
    with Table() as table:
        table.add(*V4)
        for first, second in ((V6, V6), (V6, V4), (V4, V6)):
            ends = (*first[:2], *second[2:])
            assert error_of(table.add, *ends) == "EAFNOSUPPORT"
            assert error_of(table.update, *ends) == "EAFNOSUPPORT"
        assert error_of(table.delete, V6[0]) == "ENOENT"
        table.update(*V4)
        assert len(table.entries()) == 1

"""Several machines with a daemon each behind one Kamailio, a Redis master with a replica, and Sentinels."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from types import TracebackType

from systemlab.daemon import Daemon, wait_until
from systemlab.netns import Host, Lab
from systemlab.redisserver import RedisServer, Sentinel

from kamailio.programs import Kamailio

NAMES = ("one", "two", "three")
NG_PORT, SIP_PORT, REDIS_PORT, SENTINEL_PORT = 2223, 5060, 6379, 26379
# Kamailio gives a daemon two seconds, then leaves it alone for three: a site would wait longer.
PATIENCE = {"RTPENGINE_WAIT_MS": "500", "RTPENGINE_RETRIES": "3", "RTPENGINE_DISABLE_S": "3"}


class Network(Lab):
    """Phones on hosts A and B, and machines: of the daemons, one in reserve, of Kamailio, of Redis."""

    def __init__(self) -> None:
        super().__init__()
        prefix = self.relay.namespace.removesuffix("relay")
        self.machines = {
            name: Host(f"{prefix}{name}", number) for number, name in zip((41, 51, 61), NAMES, strict=True)
        }
        self.reserve = Host(f"{prefix}reserve", 71)
        self.front = Host(f"{prefix}front", 81)
        self.stores = [Host(f"{prefix}store-{number}", number) for number in (91, 101)]

    @property
    def hosts(self) -> list[Host]:
        """Everybody with addresses."""
        return [self.a, self.b, *self.machines.values(), self.reserve, self.front, *self.stores]


class Cluster:
    """All of them running. The second address of a daemon's machine floats: calls and its ng port are there."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self.addresses = {name: machine.ipv4[1] for name, machine in network.machines.items()}
        self.daemons: dict[str, Daemon] = {}
        self.redis: list[RedisServer] = []
        self.kamailio: Kamailio

    def __enter__(self) -> Cluster:
        with self._stack as starting:
            self._start_redis()
            for name, machine in self.network.machines.items():
                self.start_daemon(name, machine)
            sockets = " ".join(f"udp:{address}:{NG_PORT}" for address in self.addresses.values())
            names = {"RTPENGINE_SOCK": f'"{sockets}"', **PATIENCE}
            self.kamailio = Kamailio("kamailio-ng.cfg", self._directory, self.network.front, SIP_PORT, names)
            starting.callback(self.kamailio.stop)
            self._stack = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start_redis(self) -> None:
        for host in self.network.stores:
            more = ("--replicaof", self.redis[0].address, str(REDIS_PORT)) if self.redis else ()
            self.redis.append(RedisServer(host, self._make("redis"), *more, address=host.ipv4[0], port=REDIS_PORT))
            self._stack.callback(self.redis[-1].stop)
        assert wait_until(lambda: b"master_link_status:up" in self.redis[1].command("INFO", "replication"), 60)
        watchers = []
        for machine in self.network.machines.values():
            address = machine.ipv4[0]
            sentinel = Sentinel(machine, self._make("sentinel"), self.redis[0], address=address, port=SENTINEL_PORT)
            watchers.append(sentinel)
            self._stack.callback(sentinel.stop)
        assert wait_until(lambda: all(each.knows(2) for each in watchers), 60), "Sentinels do not find each other"

    def _make(self, name: str) -> Path:
        directory = self._directory / f"{name}-{len(list(self._directory.iterdir()))}"
        directory.mkdir()
        return directory

    def start_daemon(self, name: str, host: Host) -> Daemon:
        """Start the daemon that has this instance, on the machine that has its address."""
        address = self.addresses[name]
        sentinels = ",".join(f"{machine.ipv4[0]}:{SENTINEL_PORT}" for machine in self.network.machines.values())
        options = (
            f"--ip={address}", f"--redis-instance={name}", f"--redis-sentinel=calls@{sentinels}", "--redis-db=0",
            "--port-min=30000", "--port-max=31999", "--control-allow=198.51.100.0/24,127.0.0.1", "--timeout=900",
        )  # fmt: skip
        directory = self._make("daemon")
        ng = f"{address}:{NG_PORT}"
        self.daemons[name] = Daemon(self.network, directory, *options, ng=ng, ipv6=False, host=host)
        self._stack.callback(self.daemons[name].kill)
        return self.daemons[name]

    def kill_machine(self, name: str) -> None:
        """A machine loses its power: whoever was on it says nothing any more, not even that nobody is there."""
        daemon = self.daemons[name]
        subprocess.run(["ip", "-n", daemon.host.namespace, "link", "set", "eth0", "down"], check=True)
        daemon.process.kill()
        daemon.process.wait(10)

    def move_address(self, name: str, host: Host) -> None:
        """Give the floating address of a dead machine to another, and let everybody ask anew who has it."""
        address = f"{self.addresses[name]}/24"
        subprocess.run(["ip", "-n", host.namespace, "addr", "add", address, "dev", "eth0"], check=True)
        for each in self.network.hosts:
            subprocess.run(["ip", "-n", each.namespace, "neigh", "flush", "all"], check=True)

    def calls(self, name: str) -> int:
        """How many calls Redis has of an instance, at the master that is left."""
        return len(self.redis[1].keys(f"rtpengine:{name}:call:*"))

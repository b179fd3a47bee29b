# The daemon in a container, built from this tree on Debian 12. A call takes four ports, so it uses the host's network.
#
# Userspace only:
#
#   docker build --target=userspace --tag=rtpengine .
#   docker run --network=host rtpengine --table=-1 --ip=198.51.100.2 --listen-ng=127.0.0.1:2223
#
# With the host's kernel module: install ngcp-rtpengine-kernel-dkms on the host and load it (modprobe xt_MEDIAPROXY).
# The rule that hands packets to it can be made from the container, too:
#
#   docker build --target=host-module --tag=rtpengine-kernel .
#   docker run --rm --network=host --cap-add=NET_ADMIN --entrypoint=iptables rtpengine-kernel \
#       -I INPUT -d 198.51.100.2 -p udp --dport 30000:40000 -j MEDIAPROXY --id 0
#   docker run --network=host --cap-add=NET_ADMIN --cap-add=SYS_NICE rtpengine-kernel \
#       --no-fallback --table=0 --ip=198.51.100.2 --listen-ng=127.0.0.1:2223

FROM debian:bookworm-slim AS build
RUN apt-get update
RUN apt-get install -y --no-install-recommends ca-certificates make
COPY . /src
WORKDIR /src
RUN make deb

FROM debian:bookworm-slim AS userspace
COPY --from=build /src/dist /packages
RUN apt-get update \
 && apt-get install -y --no-install-recommends /packages/ngcp-rtpengine-daemon_*.deb \
 && rm -rf /var/lib/apt/lists/*
ENTRYPOINT ["/usr/sbin/rtpengine", "--foreground", "--log-stderr"]

FROM userspace AS host-module
RUN apt-get update \
 && apt-get install -y --no-install-recommends /packages/ngcp-rtpengine-iptables_*.deb \
 && rm -rf /var/lib/apt/lists/*

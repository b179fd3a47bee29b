"""What the system tests are made of: hosts in network namespaces, a daemon, an ng client, parties with sockets."""

"""What this machine has in /etc/rtpengine is none of the tests' business."""

from __future__ import annotations

# config first: its help names the usual file
from rtpengine import config, config_file

config_file.DEFAULT_FILE = "/nonexistent/rtpengine.conf"
assert config_file.DEFAULT_FILE not in config.help_text()

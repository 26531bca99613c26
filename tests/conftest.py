"""Tests hold however they are started: by nohup, or in the background of a shell."""

from __future__ import annotations

import signal

for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        # What is ignored stays so in all that tests start, and could not be ended by it; what is handled does not.
        signal.signal(number, lambda *_: None)

"""Tests hold however they are started: by nohup, or in the background of a shell."""

from __future__ import annotations

import signal

# What is ignored stays so in all that tests start, and could not be ended by it; what is handled does not.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

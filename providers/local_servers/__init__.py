"""Runs model servers of this machine as subprocesses."""

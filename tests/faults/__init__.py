"""The fault suite: every fault that is known to happen, played against every command."""

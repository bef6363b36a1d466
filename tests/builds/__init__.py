"""Tests of two builds beside each other, which `make test-upgrade` runs: they need another commit, built."""

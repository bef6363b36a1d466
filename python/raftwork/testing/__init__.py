"""For tests of applications and of storages. Nothing here is loaded unless asked for."""

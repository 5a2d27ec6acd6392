"""Sources: everything that reads the world and fills the store. One file each."""

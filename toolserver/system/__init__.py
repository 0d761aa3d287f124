"""What touches the machine: files by descriptor, archives, processes, terminals."""

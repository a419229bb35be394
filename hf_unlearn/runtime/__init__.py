"""What every run needs from the machine: jobs, processes, progress, locks, files, log filters, strict YAML."""

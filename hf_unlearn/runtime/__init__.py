"""What every run needs of the machine: jobs, processes, progress, locks, files, log filters, strict YAML."""

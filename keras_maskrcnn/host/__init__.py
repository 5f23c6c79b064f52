"""The process and the disk: whole files, memory, progress bars."""

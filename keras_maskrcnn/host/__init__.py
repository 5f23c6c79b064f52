"""The process, the disk and the screen: atomic files, memory, messages, progress bars, tables."""

"""A fuzzer of the package's doors: whatever a user hands in is accepted, or refused with one clear error.

inputs.py    seed -> Case: a valid input of a door, changed a few times (`seeds.py`, `mutations.py`, `encodings.py`)
doors.py     what the package does with a case
judge.py     whether that is right: accepted, clear, unclear or wrong
children.py  processes with limits of time and memory, which report hangs and crashes
run.py       python -m tests.fuzz.run: many cases, a table of counts, the failures
"""

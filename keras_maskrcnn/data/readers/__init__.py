"""From files of annotations to records: one format a file. `opener.py` recognises the format."""

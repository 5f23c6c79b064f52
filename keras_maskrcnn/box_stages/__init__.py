"""Classes and boxes of RoIs, in one stage or in a cascade: `stages.py`; the limits of detections: `limits.py`."""

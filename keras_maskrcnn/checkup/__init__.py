"""Check a dataset before training: faults, statistics and a proposed config.

Reading order: inspection.py (the pass over the images), findings.py (checks per object), files.py (checks of files),
anchor_recall.py, pixels.py, proposal.py, report.py (everything as one dictionary). Called by
`keras-maskrcnn check-data` and `train --auto`.
"""

from keras_maskrcnn.checkup.inspection import inspect_dataset
from keras_maskrcnn.checkup.proposal import propose
from keras_maskrcnn.checkup.report import make_report
from keras_maskrcnn.pages.dataset_page import write_page

__all__ = ["inspect_dataset", "make_report", "propose", "write_page"]

"""What is in a dataset and what is wrong with it, before anything is trained: faults, figures, a config to begin with.

Reading order: inspection.py (the pass over images), findings.py (what can be wrong), anchor_recall.py, proposal.py,
report.py (all of it as one dictionary), page.py (as HTML). Called by `keras-maskrcnn check-data` and `train --auto`.
"""

from keras_maskrcnn.checkup.inspection import inspect_dataset
from keras_maskrcnn.checkup.proposal import propose
from keras_maskrcnn.checkup.report import make_report
from keras_maskrcnn.pages.dataset_page import write_page

__all__ = ["inspect_dataset", "make_report", "propose", "write_page"]

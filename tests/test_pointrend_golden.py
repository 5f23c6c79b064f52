"""PointRend of Detectron2's own code (tests/golden/d2_pointrend_*): with its weights, rebuilt by name, this package has
its numbers.
"""

import numpy as np
import pytest
from test_detectron2_golden import check_proposals, found_instances, partners, stages, twin
from torchvision_golden import unpack

pytestmark = pytest.mark.slow
NAME = "d2_pointrend_rcnn_R_50_FPN"
CASES = [pytest.param(0, marks=pytest.mark.slow_on_jax), 1]


@pytest.mark.parametrize("i", CASES)
def test_proposals(i):
    check_proposals(twin(NAME)[1], i, stages(NAME, i)[2])


@pytest.mark.parametrize("i", CASES)
def test_detections_and_masks(i):
    golden = twin(NAME)[1]
    found = found_instances(NAME, i)
    rows = partners(found, golden, i)
    soft = found.box_masks[rows]
    assert soft.shape == tuple(golden[f"det{i}_soft_masks_shape"]) == (100, 224, 224)
    stored = soft.ravel()[golden[f"det{i}_soft_masks_idx"]]
    apart = np.abs(stored - golden[f"det{i}_soft_masks_val"])
    # Of two cells that are nearly as uncertain, another one may be predicted anew.
    assert (apart <= 1e-3).mean() >= 0.999 and apart.max() <= 0.01
    np.testing.assert_allclose(soft.sum(axis=(1, 2), dtype=np.float64), golden[f"det{i}_soft_mask_sums"], rtol=1e-3)
    theirs = unpack(golden[f"det{i}_masks_packed"], found.image_size[1]).astype(bool)
    assert (found.masks[rows] == theirs).mean(axis=(1, 2)).min() >= 0.999

"""The network's own frame: where an image lies on the canvas, and what the numbers of a box mean inside the model.

Outside the model the image is at the top left of its canvas and a box ends where its last pixel ends. A frame takes
images and boxes in and out. Shapes: B images, H x W canvas. Called by `model.py`.
"""

from keras import ops

from keras_maskrcnn import backend


class TightFrame:
    """Inside as outside; the sides of the canvas are multiples of 32."""

    def place(self, images, image_sizes):
        """The canvas of the network, and the part of it that is normalised to begin with.

        Args:
            images: float32 (B, h, w, C), the image at the top left. image_sizes: int32 (B, [height, width]).

        Returns:
            float32 (B, H, W, C); int32 (B, [height, width]): beyond, the canvas holds zeros after normalising.
        """
        return backend.pad_to_multiple(images, 32), image_sizes

    def cells(self, anchors):
        """Anchors of a cell, numpy (A, [x1, y1, x2, y2]), in this frame."""
        return anchors

    def enter(self, boxes, image_sizes):
        """Boxes from outside, float (B, N, [x1, y1, x2, y2]), in this frame."""
        return boxes

    def leave(self, boxes, image_sizes):
        """Boxes of this frame as they are outside."""
        return boxes

    def canvas_limits(self, image_sizes):
        """What proposals are clipped to: dict of image_sizes (B, [height, width]), and origins (B, [y, x])."""
        return {"image_sizes": image_sizes}

    def image_limits(self, image_sizes):
        """What detections are clipped to, in the same form."""
        return {"image_sizes": image_sizes}


class SquareFrame(TightFrame):
    """Matterport's: the image in the centre of a black square, before normalising; a box names its last pixel.

    Matterport divides such boxes by the side of the square less one, which is the same for both axes and cancels out.

    Args:
        side: of the square, network pixels.
    """

    def __init__(self, side):
        self.side = side

    def place(self, images, image_sizes):
        """As `TightFrame.place`; the whole square is normalised, so that its border is black."""
        images = images[:, : self.side, : self.side]
        missing = [self.side - side for side in backend.shape(images)[1:3]]
        images = ops.pad(images, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
        for axis, start in enumerate(ops.unstack(self._origins(image_sizes), 2, axis=1), 1):
            # The image ends where it ends outside plus `start`, so that what is turned over the end holds zeros.
            rows = (ops.arange(self.side, dtype="int32")[None] - start[:, None]) % self.side
            images = backend.gather_each(images, rows, axis)
        return images, ops.full_like(image_sizes, self.side)

    def cells(self, anchors):
        """As `TightFrame.cells`."""
        return anchors - [0, 0, 1, 1]

    def enter(self, boxes, image_sizes):
        """As `TightFrame.enter`."""
        return ops.cast(boxes, "float32") + self._shift(image_sizes)

    def leave(self, boxes, image_sizes):
        """As `TightFrame.leave`."""
        return boxes - self._shift(image_sizes)

    def canvas_limits(self, image_sizes):
        """As `TightFrame.canvas_limits`: the square, black border included."""
        return {"image_sizes": ops.full_like(image_sizes, self.side - 1)}

    def image_limits(self, image_sizes):
        """As `TightFrame.image_limits`: the image on the square."""
        return {"image_sizes": image_sizes - 1, "origins": self._origins(image_sizes)}

    def _origins(self, image_sizes):
        return (self.side - image_sizes) // 2

    def _shift(self, image_sizes):
        """Float32 (B, 1, [x, y, x - 1, y - 1])."""
        y, x = ops.unstack(ops.cast(self._origins(image_sizes), "float32"), 2, axis=1)
        return ops.stack([x, y, x - 1, y - 1], axis=-1)[:, None]


def make_frame(canvas, max_size):
    """The frame of a config: its `canvas` and `max_size`."""
    return {"tight": TightFrame, "square": lambda: SquareFrame(max_size)}[canvas]()

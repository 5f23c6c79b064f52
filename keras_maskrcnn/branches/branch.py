"""What a branch is: a kind of prediction for each RoI, beside class and box (Mask R-CNN section 3: "adds a branch").

A branch has two parts. `Branch`, here, declares what the rest of the package needs: the losses, the arrays in a
batch and in a detection, how values move between frames, how they are drawn and evaluated. It needs only numpy, so
that loaders and data commands import no framework. `BranchHead` (head.py) is the Keras layer that trains and predicts.
`MaskRCNNConfig.branches` names the branches of a model; nothing else does. `samples/new_branch` adds one in user code.
"""


class Branch:
    """Declares one kind of prediction. Subclass it, set the class attributes, and override what differs.

    Options are attributes that `__init__` sets under the names of its arguments; `get_config` returns them. Register
    a subclass with `keras.saving.register_keras_serializable`, so that saved models find it.

    Attributes:
        name: str, an identifier. The model keeps the head as `<name>_head`.
        losses: names of the head's losses, each shown in training; they end in "_loss".
        coco_iou_type: pycocotools' type of evaluation ("segm", "keypoints"), or None: COCO has no figure for it.
        survives_tiling: whether found values are still valid for an instance merged from several tiles; it then keeps
            those of its highest-scoring part.
        refused_graphs: "onnx" (also of exports for OpenVINO, browsers and Triton) and "litert" where these have no
            operators for the head.
        class_layers: attributes of the head whose layers have one output for each class; fine-tuning on other classes
            leaves them random.
    """

    name = ""
    losses = ()
    coco_iou_type = None
    survives_tiling = True
    refused_graphs = ()
    class_layers = ()

    @classmethod
    def for_dataset(cls, dataset):
        """A branch for a dataset, with the options that its annotations determine; the default has none.

        Raises:
            ValueError: the dataset has nothing for it to learn.
        """
        return cls()

    # Training data ---------------------------------------------------------------------------------------------

    def truth(self, config):
        """Arrays that a training batch needs: dict of "gt_..." to Field, rows are objects."""
        return {}

    def make_truth(self, seen, config):
        """Those arrays for one object, in network pixels.

        Args:
            seen: VisibleObject: `seen.instance.attributes` holds the annotation's other fields beside COCO's,
                `seen.points` and `seen.vectors` carry its coordinates through flips, crops, scales and turns,
                `seen.mirrored` says whether left and right are exchanged, `seen.box` is the visible box,
                `seen.cells(M)` the mask in it.
            config: MaskRCNNConfig.

        Returns:
            dict of "gt_..." to an array of the field's shape.
        """
        return {}

    def check_truth(self, batch, config):
        """Raise ValueError where values of a numpy batch (batch.py) are wrong; shapes and dtypes have been checked."""

    # The network -----------------------------------------------------------------------------------------------

    def make_head(self, config, dtype):
        """The BranchHead of a new model.

        Args:
            config: MaskRCNNConfig. dtype: Keras dtype policy; pass it on with `head_options`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define make_head(config, dtype).")

    def head_options(self, config, dtype):
        """Keyword arguments of every BranchHead from the config: name, dtype, positive RoIs, RoIAlign's options."""
        name = f"{self.name}_head"
        return {"name": name, "dtype": dtype, "max_rois": config.max_positive_rois, "roi_align": config.roi_align}

    # Detections ------------------------------------------------------------------------------------------------

    def found(self, config):
        """Arrays that the head adds to detections: dict of key to Field. Padding rows hold zeros."""
        return {}

    def move(self, values, scale, offset):
        """Found values from network pixels to image pixels. The default suits values without coordinates.

        Args:
            values: dict of key to array (..., D, *shape), numpy or tensors.
            scale: (..., 1, [x, y]), image pixels per network pixel.
            offset: the same shape, image pixels: where the network's corner (0, 0) lies.

        Returns:
            dict of the same keys.
        """
        return values

    def views(self):
        """Further attributes of FoundInstances: dict of name to a function of the FoundInstances. Computed once."""
        return {}

    def coco_truth(self, annotation):
        """COCO fields that the evaluation needs beside those of a ground-truth annotation, a dict: a dict."""
        return {}

    def coco_options(self):
        """Further arguments of `evaluation.coco_metrics` for `coco_iou_type`: a dict."""
        return {}

    def coco_results(self, found):
        """Entries for COCO results: a list of one dict for each instance of a FoundInstances."""
        return [{} for _ in range(len(found))]

    def draw(self, pen, found, index, enlarge, color):
        """Draw one instance on a picture; the default draws nothing.

        Args:
            pen: PIL.ImageDraw.ImageDraw. found: FoundInstances. index: int, of the instance.
            enlarge: int, picture pixels per image pixel. color: (red, green, blue).
        """

    # Torchvision's weights -------------------------------------------------------------------------------------

    torchvision_renames = ()  # pairs of a regular expression and its replacement: names of old versions to today's

    def torchvision_table(self, head):
        """The head's layers beside torchvision's names: an iterable of (layer, name, what its outputs are).

        Names are Detectron2's where torchvision has no such layer. What its outputs are is True for classes, "outputs"
        for others that differ between datasets, or layers that read such, else False.

        Raises:
            ValueError: torchvision has no such branch.
        """
        raise ValueError(
            f"Torchvision's Mask R-CNN has no branch `{self.name}`. Save and load the model as .keras or .weights.h5."
        )

    def torchvision_fields(self, state):
        """Fields of MaskRCNNConfig that follow from a torchvision state dict; None where it has no such branch."""
        return None

    @classmethod
    def of_torchvision(cls, state):
        """The branch of a torchvision state dict for which `torchvision_fields` are not None."""
        return cls()

    def check_torchvision_export(self, config):
        """Raise ValueError where torchvision has no layers of this architecture."""

    # Keras -----------------------------------------------------------------------------------------------------

    def get_config(self):
        """The options, for saved models."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config):
        """A branch with these options."""
        return cls(**config)

    def __eq__(self, other):
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self):
        return hash((type(self), repr(sorted(self.get_config().items()))))

    def __repr__(self):
        options = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({options})"
